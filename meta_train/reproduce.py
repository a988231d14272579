"""``learned-opt reproduce``: runs experiments and says which claims hold."""

import difflib
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from meta_train.experiments import EXPERIMENTS, Experiment, Report
from meta_train.experiments.experiment import table

console = Console()


def reproduce(names: list[str], full: bool, folder: Path) -> dict[str, Report]:
    """Run experiments, each in a folder of its own; their reports.

    Raises:
      LookupError: there is no experiment of such a name.
    """
    experiments = [_experiment(name, full) for name in names]
    reports = {}
    rows = []
    for experiment in experiments:
        own = folder / (experiment.name + ("-full" if full else ""))
        own.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        with console.status(f"{experiment.name}: {experiment.title}"):
            report = experiment.run(own)
        path = report.write(own, experiment.title)
        reports[experiment.name] = report
        _show(experiment, report)
        console.print(f"{time.monotonic() - begun:.0f} s; {path}\n")
        rows += [
            {"experiment": experiment.name, **claim._asdict()}
            for claim in report.claims
        ]
    summary = folder / "summary.md"
    summary.write_text("\n".join(table(rows)) + "\n")
    return reports


def list_experiments() -> None:
    """The names of all experiments, what they show and where they are from."""
    overview = Table("experiment", "what it shows", "source")
    for name, kind in EXPERIMENTS.items():
        overview.add_row(name, kind.title, kind.paper)
    console.print(overview)


def _experiment(name: str, full: bool) -> Experiment:
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, n=3, cutoff=0.3)
        known = ", ".join(near or EXPERIMENTS)
        raise LookupError(f"no experiment {name!r}; there are: {known}.")
    kind = EXPERIMENTS[name]
    return kind.full() if full else kind()


def _show(experiment: Experiment, report: Report) -> None:
    """The claims and the table of results."""
    claims = Table("claim", "measured", "holds", title=experiment.title)
    for claim in report.claims:
        verdict = "[green]yes[/]" if claim.holds else "[red]no[/]"
        claims.add_row(claim.text, claim.measured, verdict)
    console.print(claims)
    if report.rows:
        results = Table(*report.rows[0])
        for row in report.rows:
            results.add_row(*(str(value) for value in row.values()))
        console.print(results)
