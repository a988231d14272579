"""How `make docs` turns these pages, and the docstrings, into a site."""

import re

project = "learned-opt"
html_theme = "furo"
html_title = project
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
napoleon_use_ivar = True
napoleon_attr_annotations = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes are in the docstrings, in words
autodoc_default_options = {"members": True, "show-inheritance": True}
default_role = "code"


def _literal_blocks(app, what, name, obj, options, lines) -> None:
    """In docstrings an indented paragraph is code or a formula, as in Markdown."""
    found, section = [], False
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        starts = number > 0 and not lines[number - 1].strip()
        if line and indent == 0:
            section = bool(
                re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", line)
            )
        if starts and indent >= 4 and not section and not _open(found):
            found += ["::", ""]
        found.append(line)
    lines[:] = found


def _open(lines: list[str]) -> bool:
    """Whether the last lines are a literal block already."""
    for line in reversed(lines):
        if line.strip():
            return line.startswith("    ") or line.endswith("::")
    return False


def _is_field(app, what, name, obj, skip, options) -> bool | None:
    """Fields of named tuples are described with their class."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    app.connect("autodoc-skip-member", _is_field)
    # Before napoleon, which reads sections.
    app.connect("autodoc-process-docstring", _literal_blocks, priority=400)
