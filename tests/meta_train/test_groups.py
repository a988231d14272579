"""Which group is in flight when: a function of the seed and the outer step alone."""

from fractions import Fraction

import numpy as np
import pytest

from meta_train import TrainConfig
from meta_train.curriculum import Horizons, TaskMix
from meta_train.groups import ChangingGroups, StandingGroups

HORIZONS = Horizons(window=5, min_horizon=10, max_horizon=80)
MIX = TaskMix(suites=("quadratic",), task_options=("dims=2", "dims=3"))


def _changing(horizons=HORIZONS, slots=3, seed=0, **options):
    return ChangingGroups(MIX, horizons, slots, 4, seed, **options)


def test_a_group_follows_another_without_a_gap():
    groups = _changing()
    for slot in range(3):
        group = groups.at(slot, 0)
        for step in range(100):
            now = groups.at(slot, step)
            if now != group:
                assert now == groups.after(group) and now.born == group.ends == step
            assert now.born <= step < now.ends
            group = now
        assert group.generation > 5


def test_which_group_is_in_flight_does_not_depend_on_what_was_asked_before():
    forwards, at_once = _changing(), _changing()
    for step in range(200):
        forwards.at(1, step)
    assert forwards.at(1, 150) == at_once.at(1, 150)
    assert forwards.at(1, 3) == at_once.at(1, 3)
    assert _changing(seed=1).at(1, 150) != at_once.at(1, 150)


def test_a_group_lasts_for_its_horizon_and_the_first_ones_are_cut():
    groups = _changing(slots=400)
    first = [groups.at(slot, 0) for slot in range(400)]
    assert all(1 <= group.ends <= group.windows for group in first)
    assert np.mean([group.ends < group.windows for group in first]) > 0.5
    second = [groups.after(group) for group in first]
    lengths = np.array([group.windows for group in second])
    assert all(group.ends - group.born == group.windows for group in second)
    share = np.bincount(lengths, minlength=17)[2:] / 400
    n = np.arange(2, 17)
    np.testing.assert_allclose(share, np.log1p(1 / n) / np.log(17 / 2), atol=0.06)


def test_where_an_estimate_is_a_whole_episode_a_group_makes_one():
    groups = _changing(whole_episodes=True)
    second = groups.after(groups.at(0, 0))
    assert second.ends - second.born == 1 and second.windows > 1


def test_the_tasks_of_a_group_have_one_structure_and_take_turns_with_the_options():
    groups = _changing()
    group = groups.at(0, 0)
    for _ in range(4):
        tasks = groups.tasks(group)
        assert len(tasks) == 4 and len({task.problem for task in tasks}) == 1
        turn = (group.slot + 3 * group.generation) % 2
        assert all(f"dims={2 + turn}" in task.name for task in tasks)
        assert [t.name for t in tasks] == [t.name for t in _changing().tasks(group)]
        group = groups.after(group)


def test_standing_groups_stay_and_hold_all_tasks():
    groups = StandingGroups(MIX, HORIZONS, num_tasks=12, seed=0)
    tasks = [groups.tasks(groups.at(slot, 0)) for slot in range(groups.slots)]
    assert sum(map(len, tasks)) == 12
    assert groups.at(0, 0) == groups.at(0, 1000)
    assert groups.after(groups.at(0, 0)) is None


def test_a_group_has_its_tasks_share_of_what_is_trained_on():
    mix = TaskMix(("small_mlp", "pinn"), (3.0, 1.0))
    standing = StandingGroups(mix, HORIZONS, num_tasks=48, seed=0)
    groups = [standing.at(slot, 0) for slot in range(standing.slots)]
    family = lambda group: standing.tasks(group)[0].name.partition("/")[0]
    shares = {family(group): 0 for group in groups}
    for group in groups:
        shares[family(group)] += standing.share(group)
    assert shares == {"small_mlp": Fraction(3, 4), "pinn": Fraction(1, 4)}
    changing = _changing()
    assert changing.share(changing.at(0, 0)) * changing.slots == 1


@pytest.mark.parametrize(
    ("share", "devices", "pairs"),
    [
        ((1, 4), 1, 8),
        ((1, 4), 2, 8),
        ((1, 3), 2, 10),
        ((9, 16), 4, 16),
        ((1, 99), 2, 2),
    ],
)
def test_a_group_has_that_share_of_the_pairs_and_one_on_each_device(
    share, devices, pairs
):
    config = TrainConfig(num_pairs=32)
    assert config.pairs_of_share(Fraction(*share), devices) == pairs


def test_the_longest_episode_grows_geometrically():
    growing = Horizons(5, 10, 160, first_max_horizon=10, growth_steps=100)
    assert [growing.windows(step) for step in (0, 50, 100, 1000)] == [
        (2, 2),
        (2, 8),
        (2, 32),
        (2, 32),
    ]
    groups = _changing(growing, slots=50)
    assert all(groups.at(slot, 0).windows == 2 for slot in range(50))
    assert max(groups.at(slot, 1000).windows for slot in range(50)) > 16


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 3},
        {"first_max_horizon": 40},
        {"growth_steps": 10},
        {"first_max_horizon": 5, "growth_steps": 10},
        {"first_max_horizon": 42, "growth_steps": 10},
    ],
)
def test_impossible_horizons_are_errors(wrong):
    with pytest.raises(ValueError):
        Horizons(**({"window": 10, "min_horizon": 10, "max_horizon": 80} | wrong))
