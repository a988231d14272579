"""The page about a run: at any moment, offline, with what a person asks first."""

import json
import re

import numpy as np
import pytest

from meta_train import TrainConfig, plots, report, run
from meta_train.run_log import RunLog, Timing

pytest.importorskip("matplotlib")
CONFIG = TrainConfig(optimizer="sgd", groups_in_flight=2, outer_steps=60)


_COLUMNS = ("loss grad_norm clipped update_norm snr grad_std guarded guarded_pairs "
            "noise_ratio inner_step skipped lost_groups rollbacks").split()  # fmt: skip


def _rows(steps, keys=_COLUMNS):
    """Made-up lines of a log."""
    return [
        {"step": step} | {k: (step + i) / 8 for i, k in enumerate(keys)}
        for step in range(1, steps + 1)
    ]


def _folder(tmp_path, steps, groups=()):
    """A run folder as a run leaves it after so many outer steps."""
    CONFIG.save(tmp_path / "config.json")
    speeds = ["inner_steps_per_second", "seconds", "waited", "replaced"]
    speeds.append("failed_writes")
    for name, keys in (("metrics", _COLUMNS), ("timing", speeds)):
        text = "".join(json.dumps(row) + "\n" for row in _rows(steps, keys))
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "groups.jsonl").write_text(
        "".join(json.dumps(group) + "\n" for group in groups)
    )
    return tmp_path


def _group(step, slot, loss, windows=4, **more):
    line = {"slot": slot, "generation": 0, "born": step - 3, "step": step}
    tasks = [f"bowl/seed{i}" for i in range(6)]
    return line | {"windows": windows, "loss": loss, "lost": 0, "tasks": tasks} | more


def test_the_page_is_whole_in_itself_and_says_how_far_the_run_is(tmp_path):
    path = report.write(_folder(tmp_path, 40, [_group(3, 0, 0.5)]))
    page = path.read_text()
    assert path == tmp_path / "report.html"
    assert page.count("data:image/png;base64,") == 5
    assert "http" not in page and 'src="/' not in page
    assert "40 of 60" in page and "--optimizer sgd" in page and "loss_cap" in page


def test_the_worst_groups_come_first_those_without_any_estimate_before_them(tmp_path):
    groups = [
        _group(3, 0, 0.5, tasks=["easy"]),
        _group(4, 1, 1.5, tasks=["hard"]),
        _group(6, 0, float("nan"), tasks=["broken"], lost=3),
        _group(7, 1, 0.7),
    ]
    page = report.write(_folder(tmp_path, 10, groups)).read_text()
    worst = page.partition("The worst of 4 groups")[2].partition("</table>")[0]
    names = re.findall(r"<tr><td>([\w/]+)", worst)
    assert names == ["broken", "hard", "bowl/seed0", "easy"]
    assert "and 2 more" in worst and "400" in worst


def test_groups_that_stay_have_no_horizon_of_their_own(tmp_path):
    page = report.write(_folder(tmp_path, 10, [_group(4, 0, 0.5, None)])).read_text()
    assert "of each lane" in page and "Groups in flight" in page


@pytest.mark.parametrize("cut", [False, True])
def test_a_run_that_was_just_begun_or_killed_has_a_page(tmp_path, cut):
    folder = _folder(tmp_path, 1 if cut else 0)
    if cut:
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "lo')
    page = report.write(folder).read_text()
    assert ("1 of 60" in page) if cut else ("No outer step" in page)


def test_a_run_whose_first_programs_still_compile_has_a_page(tmp_path):
    TrainConfig().save(tmp_path / "config.json")
    assert "No outer step" in report.write(tmp_path).read_text()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lost", [1, 10])
def test_steps_that_lost_every_group_are_left_out_of_means(tmp_path, lost):
    folder = _folder(tmp_path, 10)
    path = folder / "metrics.jsonl"
    path.unlink()
    nowhere = dict.fromkeys(("loss", "grad_norm", "snr", "grad_std"), float("nan"))
    with RunLog(folder, 0, print) as log:
        for step, row in enumerate(_rows(10), start=1):
            lost_it = step > 10 - lost
            metrics = {k: x for k, x in row.items() if k != "step"}
            log.write(
                step, metrics | (nowhere if lost_it else {}), Timing(1, 1, 0, 0, 0)
            )
    loss = run.read_metrics(folder)["loss"]
    assert np.isnan(loss[-lost:]).all() and np.isfinite(loss[:-lost]).all()
    page = report.write(folder).read_text()
    mean = f"{loss[:-lost].mean():.4f}" if lost < 10 else "nan"
    assert page.count(f"<td>{mean}") == 2
    assert page.count("data:image/png;base64,") >= 4


def test_evaluations_are_shown_beside_the_baseline_and_the_best_is_marked(tmp_path):
    folder = _folder(tmp_path, 10)
    rows = [
        {"step": step, "score": score, "final": score / 2, "adam_score": 0.31}
        | {"adam_final": 0.21, "tasks": {"bowl/seed7": score}}
        for step, score in ((0, 0.9), (5, 0.3), (10, 0.4))
    ]
    log = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "evaluations.jsonl").write_text(log)
    page = report.write(folder).read_text()
    held_out = page.partition("Evaluations on held-out tasks")[2]
    assert "<tr class=tested><td>5</td><td>0.3000</td><td>0.1500</td>" in held_out
    assert "<td>adam:tuned</td><td>0.3100</td><td>0.2100</td>" in held_out
    assert "<td>bowl/seed7</td><td>0.3000</td><td>0.4000</td>" in held_out
    assert page.count("data:image/png;base64,") == 5


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        report.write(tmp_path)


def test_a_picture_of_few_colours_still_has_them(tmp_path):
    plt = plots.pyplot()
    colours = {"red": (1, 0, 0), "blue": (0, 0, 1), "black": (0, 0, 0)}
    fig, ax = plt.subplots()
    for height, colour in enumerate(colours):
        ax.axhline(height, color=colour, lw=9)
    pixels = plt.imread(plots.save(fig, tmp_path / "lines.png"))[..., :3]
    for colour in colours.values():
        assert np.mean(np.abs(pixels - colour).max(axis=-1) < 0.05) > 0.01
