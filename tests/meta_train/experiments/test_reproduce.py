"""The command that runs experiments: reports, their summary, verdicts that can fail."""

import dataclasses
import json
from typing import ClassVar

import pytest

from meta_train import reproduce
from meta_train.experiments import EXPERIMENTS, Claim, Experiment, Report


@dataclasses.dataclass(frozen=True)
class Coin(Experiment):
    """One claim that holds and one that does not."""

    name: ClassVar[str] = "coin"
    title: ClassVar[str] = "A coin has two sides"
    paper: ClassVar[str] = "none"

    flips: int = 2

    @classmethod
    def full(cls):
        return cls(flips=1000)

    def run(self, folder):
        (folder / "coin.png").write_bytes(b"")
        claims = [Claim("heads", f"{self.flips}", True), Claim("edge", "never", False)]
        return Report(claims, [{"side": "heads", "share": 0.5}], [folder / "coin.png"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "coin", Coin)
    return tmp_path


def test_a_report_has_claims_results_figure_and_settings(folder):
    reports = reproduce.reproduce(["coin"], False, folder)
    assert not reports["coin"].reproduced
    text = (folder / "coin" / "report.md").read_text()
    for part in (
        "heads | 2 | holds",
        "**does not hold**",
        "0.5",
        "coin.png",
        "flips=2",
    ):
        assert part in text
    assert json.loads((folder / "coin" / "report.json").read_text())["rows"]


def test_the_summary_keeps_what_other_runs_found(folder):
    reproduce.reproduce(["coin"], False, folder)
    reproduce.reproduce(["coin"], True, folder)
    lines = (folder / "summary.md").read_text().splitlines()
    assert sum("coin/report.md" in line for line in lines) == 2
    assert sum("coin-full/report.md" in line and "1000" in line for line in lines) == 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_what_it_shows_and_where_it_is_from(name):
    kind = EXPERIMENTS[name]
    assert kind.name == name and kind.title and "arXiv" in kind.paper
    assert len(kind().seeds) >= 3 and len(kind.full().seeds) >= 3
