"""``learned-opt reproduce``: runs experiments and says which claims hold.

The folder gets one folder per experiment (``report.md``, ``report.json``, figures, and what
a rerun can use) and ``summary.md``, one row for every claim of every report in it.
"""

import dataclasses
import difflib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
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
    for experiment in experiments:
        own = folder / (experiment.name + ("-full" if full else ""))
        own.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        with console.status(f"{experiment.name}: {experiment.title}"):
            report = experiment.run(own)
        _write(experiment, report, time.monotonic() - begun, own)
        _show(experiment, report)
        console.print(f"{time.monotonic() - begun:.0f} s; {own / 'report.md'}\n")
        reports[experiment.name] = report
        _summarise(folder)
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


def _write(
    experiment: Experiment, report: Report, seconds: float, folder: Path
) -> None:
    """Write what was found, for people and for programs."""
    claims = [claim._asdict() for claim in report.claims]
    settings = dataclasses.asdict(experiment)
    lines = [f"# {experiment.title}", "", f"{experiment.paper}; {seconds:.0f} s", ""]
    lines += table(_verdicts(claims))
    if report.rows:
        lines += ["", *table(report.rows)]
    lines += [f"\n![{path.stem}]({path.name})" for path in report.figures]
    lines += [f"\n{note}" for note in report.notes]
    lines += ["", "Settings: " + ", ".join(f"{k}={v}" for k, v in settings.items())]
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    data = {
        "experiment": folder.name,
        "title": experiment.title,
        "seconds": seconds,
        "settings": settings,
        "claims": claims,
        "rows": [dict(row) for row in report.rows],
    }
    text = json.dumps(data, indent=1, default=str)
    (folder / "report.json").write_text(text + "\n")


def _summarise(folder: Path) -> None:
    """One table of the claims of all reports in the folder."""
    rows = []
    for path in sorted(folder.glob("*/report.json")):
        data = json.loads(path.read_text())
        name = data["experiment"]
        for claim in _verdicts(data["claims"]):
            rows.append({"experiment": f"[{name}]({name}/report.md)", **claim})
    held = sum(row["verdict"] == "holds" for row in rows)
    lines = [
        "# What reproduced",
        "",
        f"{held} of {len(rows)} claims hold; `learned-opt reproduce NAME` runs an",
        "experiment again, `--full` at the size of its paper. Ranges are over seeds.",
        "",
    ]
    (folder / "summary.md").write_text("\n".join(lines + table(rows)) + "\n")


def _verdicts(claims: list[dict[str, Any]]) -> list[Mapping[str, str]]:
    return [
        {
            "claim": claim["text"],
            "measured": claim["measured"],
            "verdict": "holds" if claim["holds"] else "**does not hold**",
        }
        for claim in claims
    ]


def _show(experiment: Experiment, report: Report) -> None:
    """The claims and the table of results."""
    claims = Table("claim", "measured", "holds", title=experiment.title)
    for claim in report.claims:
        verdict = "[green]yes[/]" if claim.holds else "[red]no[/]"
        claims.add_row(escape(claim.text), escape(claim.measured), verdict)
    console.print(claims)
    if report.rows:
        results = Table(*report.rows[0])
        for row in report.rows:
            results.add_row(*(escape(str(value)) for value in row.values()))
        console.print(results)
