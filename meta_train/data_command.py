"""What the commands `data list`, `data prepare` and `data export` show."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tasksets
from meta_train.evaluate import suites
from tasksets import catalogue, exporting, prepared, preparing, presence
from tasksets.names import UnknownNameError
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


def export_data(names: Sequence[str], folder: Path, *, leave_out: bool) -> None:
    """Exports the data sets of suites, or those named.

    Raises:
      LookupError: one of the names is neither; or data sets are not prepared here, and
        they are not to be left out.
    """
    wanted = sorted({name for each in names for name in _datasets(each)})
    absent = [name for name in wanted if not presence.data_present(name)]
    if absent and not leave_out:
        raise LookupError(
            f"not prepared here: {', '.join(absent)}. `learned-opt data prepare NAME` "
            "prepares one; --absent-data 'leave out' exports the others."
        )
    for name in wanted:
        if name in absent:
            console.print(f"{name}: [yellow]left out[/], it is not prepared here")
        elif prepared.serving(name) is None:
            console.print(f"{name}: bundled")
        else:
            found = exporting.export(name, folder)
            size = sum(
                path.stat().st_size for path in found.rglob("*") if path.is_file()
            )
            console.print(f"{name}: {size / 2**20:,.0f} MiB in {found}", soft_wrap=True)
    console.print(
        f"On the other machine: export TFDS_DATA_DIR={folder}", soft_wrap=True
    )


def _datasets(name: str) -> set[str]:
    """The data sets of a suite, to train or to evaluate on; or the one of that name."""
    if name in (*tasksets.suites(), *tasksets.families()):
        tasks = tasksets.names(name)
    elif name in suites.suite_names():
        tasks = [item.name for item in suites.items(name)]
    elif presence.data_present(name) or prepared.is_known(name):
        return {name}
    else:
        known = {*suites.suite_names(), *catalogue.IMAGES, *catalogue.texts()}
        raise UnknownNameError("suite or data set", name, known)
    found = {presence.dataset_of(task) for task in tasks}
    return {dataset for dataset in found if dataset is not None}


def _status(name: str) -> tuple[str, str]:
    if name == catalogue.BUNDLED_TEXT:
        return "[green]bundled[/]", ""
    found = prepared.serving(name)
    if found is None:
        return "[dim]absent[/]", ""
    how = "prepared" if found.exported_names is None else "exported"
    return f"[green]{how}[/] {found.folder.name}", _sizes(found.sizes)


def _loaded_sizes(name: str) -> dict[str, int]:
    data = tasksets.load(name)
    return {split: data.size(split) for split in SPLITS}


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{split} {size:,}" for split, size in sizes.items())
