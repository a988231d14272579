"""What the commands `data list` and `data prepare` show."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

import tasksets
from tasksets import catalogue, prepared, preparing
from tasksets.task import SPLITS

console = Console()


def list_data() -> None:
    """Every data set that tasks name, and every other that is here."""
    table = Table(title=f"In {prepared.data_folder()}", title_justify="left")
    table.add_column("data set", no_wrap=True)
    for column in ("status", "examples", "named by"):
        table.add_column(column)
    for name in tasksets.bundled.NAMES:
        table.add_row(name, "[green]bundled[/]", _sizes(_loaded_sizes(name)), "")
    for name, used_by in catalogue.IMAGES.items():
        table.add_row(name, *_status(name), used_by)
    for corpus, used_by in catalogue.CORPORA.items():
        table.add_row(corpus, *_status(corpus), used_by)
    for name in prepared.others():
        table.add_row(name, *_status(name), "")
    console.print(table)
    console.print(
        "A corpus is named with its encoding, which is one of "
        f"{', '.join(catalogue.ENCODINGS)}: "
        f"{', '.join(catalogue.texts()[:2])}, {catalogue.texts()[4]}.\n"
        "`learned-opt data prepare NAME` downloads a data set and prepares it. All "
        "other images and text of tensorflow-datasets go by their name there; images "
        "of another size by name and size, such as oxford_flowers102_32x32.",
        highlight=False,
    )


def prepare_data(name: str, folder: Path | None = None) -> None:
    """Prepares one data set, or says that it is there."""
    if name in {*tasksets.bundled.NAMES} or (
        catalogue.read_text_name(name).corpus == catalogue.BUNDLED_TEXT
    ):
        console.print(f"{name} is bundled: there is nothing to prepare.")
        return
    found = preparing.prepare(name, folder)
    console.print(
        f"{name} is ready: {_sizes(found.sizes)} examples in {found.folder}",
        highlight=False,
        soft_wrap=True,
    )
    folder = folder or prepared.data_folder()
    if folder.resolve() != prepared.data_folder().resolve():
        console.print(f"To use it: export TFDS_DATA_DIR={folder}", soft_wrap=True)


def _status(name: str) -> tuple[str, str]:
    if name == catalogue.BUNDLED_TEXT:
        return "[green]bundled[/]", ""
    found = prepared.find(catalogue.builder(name))
    if found is None:
        return "[dim]absent[/]", ""
    return f"[green]prepared[/] {found.folder.name}", _sizes(found.sizes)


def _loaded_sizes(name: str) -> dict[str, int]:
    data = tasksets.load(name)
    return {split: data.size(split) for split in SPLITS}


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{split} {size:,}" for split, size in sizes.items())
