"""How pictures are made: as PNG, by matplotlib, which the extra "plot" brings."""

from pathlib import Path
from typing import Any


def pyplot() -> Any:
    """matplotlib's pyplot, which draws to files.

    Raises:
      ImportError: matplotlib is not installed; the message says how to get it.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib: pip install 'learned-opt[plot]'"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(fig: Any, path: Path) -> Path:
    """Write a figure, in 256 colours for a small file, and forget it; the path."""
    from PIL import Image

    if fig.get_layout_engine() is None:
        fig.tight_layout()
    fig.savefig(path, dpi=130)
    pyplot().close(fig)
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    return path
