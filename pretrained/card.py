"""The card of a trained optimizer: what a person should know before using it."""

import dataclasses

_TEMPLATE = """\
# {name}

{summary}

```python
import pretrained
{imports}
tx = pretrained.optimizer("{name}", num_steps=2000)  # or the path of this folder
```

## Trained on

{trained_on}

```
{command}
```

{compute}

## Results

{results}

## Where it fails

{failures}

## Licence

{licence}
"""


@dataclasses.dataclass(frozen=True)
class Card:
    """What a trained optimizer is, where it comes from and where it fails.

    Attributes:
      summary: one line of plain text; what `available` lists.
      trained_on: the tasks, unroll lengths and seeds. Markdown, as are those below.
      command: the command line that trained it; not Markdown.
      compute: how long that took, on what.
      results: comparison with tuned baselines on tasks it never saw.
      failures: where not to use it.
      licence: of the weights.
    """

    summary: str
    trained_on: str
    command: str
    compute: str
    results: str
    failures: str
    licence: str = "Apache-2.0"

    def __post_init__(self):
        for name, text in dataclasses.asdict(self).items():
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"a card needs {name!r}: some text, not {text!r}")
        if len(self.summary.splitlines()) > 1:
            raise ValueError(f"the summary must be one line, not {self.summary!r}")

    def markdown(self, name: str, module: str = "") -> str:
        """The card as the README.md of the folder ``name``.

        Args:
          name: of the folder.
          module: to import first, where that registers the optimizer; empty: none.
        """
        texts = {key: text.strip() for key, text in dataclasses.asdict(self).items()}
        imports = f"import {module}  # registers the optimizer\n" if module else ""
        return _TEMPLATE.format(name=name, imports=imports, **texts)
