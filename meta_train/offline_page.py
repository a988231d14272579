"""HTML pages that need no network to read: pictures and all lie within the file."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 1.5rem; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
tr.tested { background: #fff4ec; font-weight: 600; }
img { max-width: 100%; }
code { background: #f4f4f4; padding: 0 .2rem; }
"""


def write(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Write a page of parts that are HTML already; the path."""
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *parts])
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
    path.write_text(page, "utf-8")
    return path


def heading(text: str) -> str:
    """The heading of a section."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Some sentences."""
    return f"<p>{html.escape(text)}</p>"


def command(text: str) -> str:
    """A command line."""
    return f"<p><code>{html.escape(text)}</code></p>"


def picture(title: str, path: Path) -> str:
    """A section that is a PNG."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    alt = html.escape(title)
    return f'{heading(title)}\n<img src="data:image/png;base64,{encoded}" alt="{alt}">'


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    marked: Sequence[bool] | None = None,
) -> str:
    """A table of text, some of whose rows stand out."""
    line = lambda cells, tag: "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
    marks = marked or [False] * len(rows)
    body = "".join(
        f"<tr{' class=tested' * mark}>{line(row, 'td')}</tr>"
        for row, mark in zip(rows, marks, strict=True)
    )
    return f"<table><tr>{line(heads, 'th')}</tr>{body}</table>"
