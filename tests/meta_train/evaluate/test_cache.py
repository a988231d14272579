"""What is stored is found again, and nothing else is."""

import dataclasses

import jax
import numpy as np
import pytest
from bowls import Bowl, bowl

import tasksets
from meta_train.evaluate import cache as caching
from meta_train.evaluate import contender, fingerprints
from meta_train.evaluate.cache import Cache, Stored
from meta_train.evaluate.settings import Settings

ADAM, OTHER = contender("adam:tuned").points[:2]
REQUEST = {
    "task": "mlp_family/seed0",
    "point": ADAM,
    "num_steps": 100,
    "seed": 0,
    "settings": Settings(),
}


def _stored(value):
    losses = np.full((4, 3), value, np.float32)
    return Stored(losses, np.array([value, 1.0], np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"task": "mlp_family/seed1"},
        {"point": OTHER},
        {"num_steps": 200},
        {"seed": 1},
        *(
            {"settings": dataclasses.replace(Settings(), **{field.name: 77})}
            for field in dataclasses.fields(Settings)
        ),
    ],
    ids=lambda change: next(iter(change)),
)
def test_changing_any_ingredient_changes_the_key(change):
    assert caching.key(**REQUEST) != caching.key(**(REQUEST | change))


def test_the_same_request_has_the_same_key_in_any_process_and_another_in_another_format(
    monkeypatch,
):
    again = contender("adam:tuned").points[0]
    before = caching.key(**REQUEST)
    assert before == caching.key(**(REQUEST | {"point": again}))
    assert before.startswith("542e012c5658")  # else all that people have is forgotten
    monkeypatch.setattr(caching, "FORMAT", caching.FORMAT + 1)
    assert before != caching.key(**REQUEST)


def test_a_task_without_a_name_is_not_stored_as_nobody_knows_what_it_is():
    assert caching.key(**(REQUEST | {"task": ""})) is None


def test_what_was_written_is_read(tmp_path):
    cache = Cache(tmp_path)
    cache.write("a/seed0", {"k1": _stored(1.0), "k2": _stored(2.0)})
    cache.write("a/seed0", {"k3": _stored(np.nan)})
    cache.write("a/seed00", {"k1": _stored(5.0)})
    found = cache.read("a/seed0")
    assert set(found) == {"k1", "k2", "k3"}
    np.testing.assert_array_equal(found["k2"][0].losses, 2.0)
    assert np.isnan(found["k3"][0].losses).all()
    assert cache.read("b") == {} and not list(tmp_path.rglob("*.tmp"))


def test_nothing_is_kept_without_a_folder():
    cache = Cache(None)
    cache.write("a", {"k": _stored(1.0)})
    assert cache.read("a") == {}


def test_a_file_cut_short_is_named_and_passed_over(tmp_path):
    warnings = []
    cache = Cache(tmp_path, warnings.append)
    cache.write("a", {"k1": _stored(1.0)})
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    cache.write("a", {"k2": _stored(2.0)})
    path.with_name("half.tmp").write_bytes(b"PK")  # what a kill leaves behind
    assert set(cache.read("a")) == {"k2"}
    assert len(warnings) == 1 and path.name in warnings[0]


def _print_of(task):
    return fingerprints.of_tasks([task])[0]


def test_fingerprints_tell_tasks_apart_but_not_by_rounding_or_normalisation():
    found = _print_of(bowl())
    assert fingerprints.agree(found, found * np.float32(1 + 1e-5))
    assert not fingerprints.agree(found, _print_of(bowl(curvature=1.1)))
    assert not fingerprints.agree(found, _print_of(bowl(bottoms=(0, 1, 0, 0))))
    task = bowl()
    measured = task.numbers._replace(best_loss=np.float32(-3.0))
    other = dataclasses.replace(task, numbers=measured)
    assert fingerprints.agree(found, _print_of(other))


def test_fingerprints_tell_tasks_of_equal_numbers_apart_by_their_losses():
    ackley, rosenbrock = (
        _print_of(tasksets.get(f"TwoD_{name}")) for name in ("Ackley", "Rosenbrock")
    )
    assert ackley.shape == rosenbrock.shape == (4,)  # all structure, no numbers
    assert not fingerprints.agree(ackley, rosenbrock)


def test_fingerprints_tell_whether_all_splits_are_served_from_the_same_data():
    class OneSplit(Bowl):
        def one_split(self, data):
            return True

    alike = dataclasses.replace(bowl(), data=np.ones(3))
    one = dataclasses.replace(alike, problem=OneSplit())
    assert not fingerprints.agree(_print_of(alike), _print_of(one))


def test_fingerprints_tell_the_behaviour_of_optimizers_apart():
    points = (
        *contender("adam:tuned").points[:2],
        *contender("adam:lr=1e-5,b1=0.8").points,
    )
    one, rate, decay = fingerprints.of_points(points)
    assert not fingerprints.agree(one, rate) and not fingerprints.agree(one, decay)
    (decayed,) = fingerprints.of_points(contender("nadamw:weight_decay=.1").points)
    (penalised,) = fingerprints.of_points(contender("nadamw:l2=1e-9").points)
    (neither,) = fingerprints.of_points(contender("nadamw").points)
    for other in (decayed, penalised):  # seen where a gradient is zero
        assert not fingerprints.agree(neither, other)
    (sgd,) = fingerprints.of_points(contender("sgd:lr=1e-5").points)
    assert not fingerprints.agree(one, sgd)


def test_losses_of_fingerprints_are_kept_for_what_ships(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    find = lambda: fingerprints.of_tasks([tasksets.get("TwoD_Ackley"), bowl()], cache)
    found, _ = find()
    (path,) = tmp_path.glob("fingerprints/*")  # nobody knows what code bowls have
    computed = []
    alike = fingerprints._of_alike
    watched = lambda tasks: computed.extend(task.name for task in tasks) or alike(tasks)
    monkeypatch.setattr(fingerprints, "_of_alike", watched)

    np.testing.assert_array_equal(find()[0], found)
    assert computed == [bowl().name]
    path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(find()[0], found)
    assert computed.count("TwoD_Ackley") == 1
    monkeypatch.setattr(fingerprints, "_code", lambda: "edited")
    np.testing.assert_array_equal(find()[0], found)
    assert computed.count("TwoD_Ackley") == 2


def test_losses_of_fingerprints_are_of_the_same_numbers_and_problem(tmp_path):
    cache = Cache(tmp_path)
    task = tasksets.get("quadratic_family/seed3")
    steeper = jax.tree.map(lambda x: 2 * x, task.numbers)
    other = dataclasses.replace(task, numbers=steeper)
    renamed = dataclasses.replace(tasksets.get("TwoD_Ackley"), name="TwoD_Rosenbrock")
    kept = fingerprints.of_tasks([task, tasksets.get("TwoD_Rosenbrock")], cache)
    for another, before in zip([other, renamed], kept, strict=True):
        (now,) = fingerprints.of_tasks([another], cache)
        (found_anew,) = fingerprints.of_tasks([dataclasses.replace(another)])
        np.testing.assert_array_equal(now, found_anew)
        assert not fingerprints.agree(now[-4:], before[-4:])  # the losses
