"""Contenders by name: what each is, which are equal, what is wrong said in a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
import pretrained
from meta_train import evaluate
from meta_train.evaluate import contender


@pytest.mark.parametrize(
    ("name", "points", "tuned"),
    [
        ("adam:tuned", 14, "per task"),
        ("adam:global", 14, "over the suite"),
        ("adamw_cosine:tuned", 7, "per task"),
        ("sgd:tuned", 14, "per task"),
        ("opt_list:1", 1, "per task"),
        ("opt_list:100", 100, "per task"),
        ("muon", 1, "per task"),
    ],
)
def test_a_baseline_tries_what_its_name_says(name, points, tuned):
    found = contender(name)
    assert (found.name, len(found.points), found.tuned) == (name, points, tuned)
    assert found.baseline


def test_every_baseline_makes_a_transform_that_trains():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    kinds = {
        p.kind.identity: p for name in evaluate.ALL for p in contender(name).points
    }
    for identity, point in kinds.items():

        @jax.jit
        def measured(numbers, kind=point.kind):
            tx = optax.with_extra_args_support(kind.make(numbers, 10))
            state = tx.init(params)
            updates, state = tx.update(params, state, params, value=jnp.float32(1.0))
            return kind.measured(state, optax.apply_updates(params, updates))

        found = measured(point.numbers)
        assert jax.tree.structure(found) == jax.tree.structure(params), identity
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(found)), (
            identity
        )


def test_one_rate_is_a_point_of_the_grid_however_it_is_spelled():
    (alone,) = contender("adam:lr=1e-3").points
    assert contender("adam:lr=1e-3").name == "adam:lr=0.001"
    assert alone.content in [p.content for p in contender("adam:tuned").points]
    (other,) = contender("adam:lr=1e-3,b1=0.8").points
    assert other.content != alone.content
    assert other.kind.identity == alone.kind.identity  # one program for both


def test_a_shorter_opt_list_is_the_beginning_of_a_longer_one():
    contents = [p.content for p in contender("opt_list:10").points]
    longer = [p.content for p in contender("opt_list:100").points]
    assert contents == longer[:10] and len(set(longer)) == 100
    optimizer, theta = learned_opt.opt_list.config(7)
    point = contender("opt_list:10").points[7]
    jax.tree.map(np.testing.assert_array_equal, point.numbers, theta)
    assert ('"nesterov": true' in point.kind.identity) == optimizer.nesterov


def test_the_numbers_of_a_baseline_reach_the_optimizer():
    params = jnp.ones(3)
    grads = jnp.array([1.0, -2.0, 0.5])
    for name, expected in (
        ("adam:lr=0.1,b1=0.5", optax.adam(0.1, b1=0.5)),
        ("sgd:lr=0.1", optax.sgd(0.1, momentum=0.9)),
        ("sgd:lr=0.1,momentum=0", optax.sgd(0.1)),
        ("nadamw:lr=0.1", optax.nadam(0.1)),
        ("nadamw:lr=0.1,nesterov=0", optax.adam(0.1)),
        ("prodigy:lr=2", optax.contrib.prodigy(2.0)),
    ):
        (point,) = contender(name).points
        tx, state, other = point.kind.make(point.numbers, 10), None, None
        state, other = tx.init(params), expected.init(params)
        for _ in range(3):
            step, state = tx.update(grads, state, params)
            want, other = expected.update(grads, other, params)
        np.testing.assert_allclose(step, want, rtol=1e-4, err_msg=name)


def test_schedule_free_is_measured_where_it_says_and_not_where_it_trains():
    (point,) = contender("schedule_free_adamw:lr=0.1").points
    tx = point.kind.make((), 10)
    params = jnp.ones(3)
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(jnp.ones(3), state, params)
        params = optax.apply_updates(params, updates)
    expected = optax.contrib.schedule_free_eval_params(state, params)
    np.testing.assert_array_equal(point.kind.measured(state, params), expected)
    assert not np.allclose(expected, params)


def test_learned_optimizers_are_told_apart_by_theta_and_by_fields():
    optimizer = learned_opt.ScaleFree()
    theta = optimizer.init(jax.random.key(0))
    one = evaluate.learned("one", optimizer, theta)
    same = evaluate.learned("another name", learned_opt.ScaleFree(), theta)
    assert one.content == same.content and not one.baseline
    moved = jax.tree.map(lambda x: x + 1e-7, theta)
    bolder = learned_opt.ScaleFree(step_size=0.1)
    others = [
        evaluate.learned("one", optimizer, moved),
        evaluate.learned("one", bolder, theta),
        contender("scale_free"),
    ]
    assert len({c.content for c in (one, *others)}) == 4
    assert others[1].points[0].kind.identity != one.points[0].kind.identity


def test_thetas_with_and_without_an_optional_part_are_no_one_kind():
    plain, scheduled = (
        learned_opt.NAdamW(**fields).init(jax.random.key(0))
        for fields in ({}, {"constant_fraction": 0.5})
    )
    assert jax.tree.structure(plain) != jax.tree.structure(scheduled)
    one, other = (
        evaluate.learned("one", learned_opt.NAdamW(), theta).points[0].kind.identity
        for theta in (plain, scheduled)
    )
    assert one != other


def test_a_folder_a_run_folder_and_a_shipped_name_are_found(tmp_path):
    loaded = pretrained.load("scale_free")
    for folder in (tmp_path / "saved", tmp_path / "run" / "theta"):
        pretrained.save(folder, loaded.optimizer, loaded.theta, loaded.card)
    shipped = contender("scale_free")
    for name in (str(tmp_path / "saved"), str(tmp_path / "run")):
        assert contender(name).content == shipped.content
        assert contender(name).name == name


def test_a_folder_that_has_the_name_of_a_shipped_optimizer_does_not_replace_it(
    tmp_path, monkeypatch
):
    shipped, sgd = contender("scale_free"), learned_opt.get("sgd")()
    theta = sgd.init(jax.random.key(0))
    card = pretrained.load("scale_free").card
    pretrained.save(tmp_path / "scale_free" / "theta", sgd, theta, card)
    monkeypatch.chdir(tmp_path)
    assert contender("scale_free").content == shipped.content
    assert contender("./scale_free").content != shipped.content


def test_what_training_started_from_is_a_contender():
    learned = learned_opt.names()
    assert {"scale_free", "hierarchical", "celo", "adam"} <= set(learned)
    untrained = {contender(f"{name}:untrained").content for name in learned}
    assert len(untrained) == len(learned)
    assert contender("scale_free").content not in untrained
    assert not contender("scale_free:untrained").baseline


def test_a_transform_of_the_users_own_has_no_content_to_be_cached_by():
    assert evaluate.fixed("mine", optax.sgd(0.1)).content is None


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("adm:tuned", LookupError, "did you mean adam:tuned"),
        ("scale_fre", LookupError, "scale_free"),
        ("zzz", LookupError, "known: adam"),
        ("opt_list", ValueError, "1 to 100"),
        ("opt_list:101", ValueError, "1 to 100"),
        ("adam:foo", ValueError, "adam:lr=1e-3"),
        ("adam:lr=much", ValueError, "adam:lr=1e-3"),
        ("adam:zz=1", ValueError, "zz"),
        ("muon:tuned", ValueError, "the colon is numbers, as in"),
    ],
)
def test_a_wrong_name_is_a_sentence_with_the_nearest_right_one(name, error, sentence):
    with pytest.raises(error, match=sentence):
        contender(name)
