"""What is tried and what is chosen, on results made by hand."""

import dataclasses

import numpy as np
import pytest
from bowls import bowl

from meta_train.evaluate.contenders import Contender, Kind, Point
from meta_train.evaluate.study import Study

KIND = Kind("kind", lambda numbers, num_steps: None)
SMALL, LARGE = (Point(KIND, (), label, label) for label in ("small", "large"))
TUNED = Contender("tuned", (SMALL, LARGE))


@dataclasses.dataclass
class Bench:
    """Has every result it was given: losses by (task, label, seed) and split."""

    known: dict
    tasks: tuple = (bowl("a"), bowl("b"))

    def result(self, wanted):
        found = self.known.get((wanted.task, wanted.point.label, wanted.seed))
        return None if found is None else np.array(found, float)

    def missing(self, wanted):
        return [run for run in wanted if self.result(run) is None]


def _by_split(train, inner_valid, outer_valid, test):
    return [train, inner_valid, outer_valid, test]


def _everywhere(curve):
    return _by_split(curve, curve, curve, curve)


def test_a_grid_is_tried_with_the_tuning_seeds_and_a_single_point_with_all():
    single = Contender("single", (SMALL,))
    study = Study(num_seeds=3, tuning_seeds=2)
    wanted = study.trials(Bench({}), [TUNED, single])
    of = lambda contender: [run for run in study.trials(Bench({}), [contender])]
    assert len(of(TUNED)) == 2 * 2 * 2 and len(of(single)) == 2 * 3
    assert len(wanted) == 14
    assert study.competitor(TUNED).trials == 4 and study.competitor(single).trials == 1
    assert study.competitor(TUNED).title == "tuned, 4 trials"


def test_the_point_is_chosen_on_inner_validation_and_not_on_what_is_reported():
    good, bad = [4.0, 3.0, 1.0], [4.0, 3.0, 2.0]
    bench = Bench(
        {
            (0, "small", 0): _by_split(bad, good, bad, bad),
            (0, "large", 0): _by_split(good, bad, good, good),
        }
    )
    choice = Study(1, 1).choose((bench, 0), TUNED)
    assert choice == {"final": 0, "mean over training": 0}
    found = Study(1, 1).results(TUNED, [(bench, 0)], None)
    np.testing.assert_array_equal(found.losses["final"]["test"], [[bad]])
    assert found.labels["final"] == ("small",)


def test_each_figure_gets_its_own_point_and_both_are_run_with_every_seed():
    fast, deep = _everywhere([4.0, 1.0, 2.0]), _everywhere([4.0, 4.0, 1.0])
    bench = Bench({(0, "small", 0): fast, (0, "large", 0): deep}, (bowl("a"),))
    study = Study(num_seeds=3, tuning_seeds=1)
    assert study.choose((bench, 0), TUNED) == {"final": 1, "mean over training": 0}
    finals = study.finals(bench, TUNED)
    runs = [(run.point.label, run.seed) for run in finals]
    assert runs == [(label, s) for label in ("small", "large") for s in range(3)]


def test_only_the_tuning_seeds_choose():
    bench = Bench(
        {
            (0, "small", 0): _everywhere([4.0, 1.0]),
            (0, "large", 0): _everywhere([4.0, 2.0]),
            (0, "small", 1): _everywhere([4.0, 9.0]),  # not known when it was chosen
            (0, "large", 1): _everywhere([4.0, 0.0]),
        }
    )
    assert Study(2, 1).choose((bench, 0), TUNED)["final"] == 0
    assert Study(2, 2).choose((bench, 0), TUNED)["final"] == 1


def test_tuning_over_the_suite_takes_one_point_for_all_by_normalised_losses():
    # Task b has losses a thousand times as large, which must not decide.
    bench = Bench(
        {
            (0, "small", 0): _everywhere([4.0, 0.0]),
            (0, "large", 0): _everywhere([4.0, 3.0]),
            (1, "small", 0): _everywhere([4000.0, 1000.0]),
            (1, "large", 0): _everywhere([4000.0, 0.0]),
        }
    )
    together = dataclasses.replace(TUNED, tuned="over the suite")
    spots = [(bench, 0), (bench, 1)]
    assert Study(1, 1).choose_for_all(spots, together)["final"] == 0
    assert Study(1, 1).choose(spots[1], TUNED)["final"] == 1


def test_the_lowest_loss_is_that_of_any_run_and_not_of_the_chosen():
    bench = Bench(
        {
            (0, "small", 0): _by_split([4, 1], [4, 1], [4, 1], [4, 3]),
            (0, "large", 0): _by_split([4, 2], [4, 2], [4, 2], [4, 0.5]),
            (0, "small", 1): _by_split([4, np.nan], [4, 1], [4, 1], [4, np.inf]),
            # Known, but of a run that this study does not make.
            (0, "large", 1): _by_split([4, 0], [4, 0], [4, 0], [4, 0]),
        }
    )
    found = Study(2, 1).results(TUNED, [(bench, 0)], None)
    assert found.labels["final"] == ("small",)
    assert found.lowest["test"] == [0.5] and found.lowest["train"] == [1.0]


def test_a_result_that_is_not_there_is_an_error_and_not_a_guess():
    with pytest.raises(RuntimeError, match="small on a, seed 0, was not run"):
        Study(1, 1).choose((Bench({}), 0), TUNED)
