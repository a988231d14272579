"""Standings, tables and pages of comparisons made by hand."""

import numpy as np
import pytest
from bowls import by_hand
from rich.console import Console
from rich.table import Table

from meta_train import evaluate
from meta_train.evaluate import page
from meta_train.evaluate_display import fitting

NAN = np.nan

# Two tasks, one seed: the initial loss is 4, the reference ends at 2 and at 1.
LOSSES = {
    "mine": [[[4.0, 2.0, 1.0]], [[4.0, 4.0, 2.0]]],
    "adam:tuned": [[[4.0, 3.0, 2.0]], [[4.0, 2.0, 1.0]]],
    "other": [[[4.0, 4.0, 0.0]], [[4.0, NAN, NAN]]],
}
SPEED = {"mine": 2.0, "adam:tuned": 1.0, "other": 1.0}


@pytest.fixture
def comparison():
    return by_hand(LOSSES, baselines=("adam:tuned", "other"), seconds=SPEED)


def test_scores_are_relative_to_the_best_that_any_baseline_reached(comparison):
    scores = comparison.scores("final", "test")[..., 0]
    # Task 0: other reached 0. Task 1: the reference reached 1.
    np.testing.assert_allclose(scores, [[1 / 4, 1 / 3], [1 / 2, 0], [0, 1]])
    over = comparison.scores("mean over training", "test")[..., 0]
    np.testing.assert_allclose(over[0], [(1 + 1 / 2 + 1 / 4) / 3, (1 + 1 + 1 / 3) / 3])


def test_what_is_tested_does_not_move_the_scale(comparison):
    better = by_hand(
        LOSSES | {"mine": [[[4.0, -9.0, -9.0]], [[4.0, -9.0, -9.0]]]},
        baselines=("adam:tuned", "other"),
    )
    for figure in evaluate.FIGURES:
        before, after = (c.scores(figure, "test") for c in (comparison, better))
        np.testing.assert_array_equal(before[1:], after[1:])
    np.testing.assert_allclose(after[0], 1 / 3)  # clipped at 0 after the start


def test_without_baselines_the_best_of_all_is_the_scale():
    scores = by_hand(LOSSES).scores("final", "test")[..., 0]
    np.testing.assert_allclose(scores[0], [1 / 4, 1 / 3])


def test_standings_count_and_compare(comparison):
    mine, reference, other = evaluate.standings(comparison)
    assert mine.mean["final"].value == pytest.approx((1 / 4 + 1 / 3) / 2)
    assert mine.median["final"].value == pytest.approx((1 / 4 + 1 / 3) / 2)
    assert (mine.won["final"], reference.won["final"], other.won["final"]) == (0, 1, 1)
    assert (mine.diverged, other.diverged) == (0, 1) and other.above_start == 0
    assert mine.milliseconds == 2000 and reference.against is None
    against = mine.against["final"]
    assert against.difference.value == pytest.approx(
        ((1 / 4 - 1 / 2) + (1 / 3 - 0)) / 2
    )
    assert against.won == 1
    ((name, score, best),) = against.losing
    assert (name, score, best) == ("task1", pytest.approx(1 / 3), 0.0)
    # Task 0: at 2 after half of the steps. Task 1: never at 1. In time half of that.
    assert against.speedup_steps.value == pytest.approx((2.0 + 0.0) / 2)
    assert against.speedup_seconds.value == pytest.approx((1.0 + 0.0) / 2)
    summary = evaluate.summary([mine, reference, other])
    assert list(summary["optimizer"]) == ["mine", "adam:tuned", "other"]
    assert summary["final, tasks won"].tolist() == [0.0, 1.0, 1.0]
    assert summary["tasks diverged"].tolist() == [0, 0, 1]


def test_equal_scores_are_half_won():
    same = by_hand({"mine": LOSSES["adam:tuned"], "adam:tuned": LOSSES["adam:tuned"]})
    against = evaluate.standings(same)[0].against["final"]
    assert against.won == 1 and against.losing == () and against.difference.value == 0
    assert against.speedup_steps.value == 1


def test_the_table_has_a_row_for_every_measurement(comparison):
    table = evaluate.table(comparison)
    assert len(table) == 3 * 2 * 1 * 4 * 3
    rows = table[(table.optimizer == "mine") & (table.task == "task0")]
    rows = rows[rows.split == "test"]
    assert rows.step.tolist() == [0, 50, 100]
    assert rows.loss.tolist() == [4.0, 2.0, 1.0]
    np.testing.assert_allclose(rows.normalised, [1, 1 / 2, 1 / 4])
    by_step = table[table.split == "test"].groupby(["optimizer", "step"], observed=True)
    assert by_step.normalised.mean()["adam:tuned", 100] == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="mean over training"):
        evaluate.table(comparison, "best")


def test_contenders_of_two_comparisons_join_on_the_tasks_they_share(comparison):
    first = comparison.of_contenders(["mine"])
    rest = comparison.of_contenders(["other", "adam:tuned"]).of_tasks([1])
    joined = first.joined(rest)
    assert joined.names == ("mine", "other", "adam:tuned")
    assert [entry.task.name for entry in joined.entries] == ["task1"]
    np.testing.assert_array_equal(
        joined.results[2].losses["final"]["test"], [[[4, 2, 1]]]
    )
    with pytest.raises(LookupError, match="'nobody' was not compared"):
        joined.index("nobody")


def test_the_page_needs_no_network_and_names_every_losing_task(comparison, tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG")
    found = evaluate.standings(comparison)
    path = page.write(
        tmp_path / "index.html",
        comparison,
        found,
        {"A <picture>": picture},
        title="Title",
        command="learned-opt evaluate mine",
    )
    text = path.read_text()
    assert "data:image/png;base64,iVBORw==" in text and "A &lt;picture&gt;" in text
    assert "http" not in text and 'src="/' not in text
    for standing in found:
        assert standing.competitor.name in text
    losing = text.partition("Where mine loses to adam:tuned: final (1 tasks)")[2]
    assert "task1" in losing.partition("</table>")[0]
    assert "task0" not in losing.partition("</table>")[0]


def test_pictures_are_drawn_of_whatever_there_is(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    from meta_train.evaluate import figures

    drawn = figures.draw(comparison, tmp_path)
    assert len(drawn) == 5
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn.values())
    only = by_hand({"adam:tuned": LOSSES["adam:tuned"]}, baselines=("adam:tuned",))
    assert "Differences by task" not in figures.draw(only, tmp_path)


def test_a_table_for_the_terminal_loses_intervals_and_columns_not_letters(comparison):
    heads, rows = page.standing_rows(evaluate.standings(comparison), "final")
    assert fitting(heads, rows, 200) == (heads, rows)
    for width in (140, 100, 80, 60):
        some, cells = fitting(heads, rows, width)
        table = Table(*some)
        for row in cells:
            table.add_row(*row)
        assert Console(width=999).measure(table).maximum <= width
        assert some[0] == "optimizer" and {"mean", "median"} <= set(some)
        assert [row[0] for row in cells] == [row[0] for row in rows]
