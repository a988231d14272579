"""Any valid variant of a task has one name, and the name has one meaning.

Values are drawn for the fields that a name can set, go through the grammar of names, and
must come back. Some of the tasks are built and traced, which compiles nothing.
"""

import dataclasses
import random
import typing

import jax
import jax.numpy as jnp
import pytest
import small_variants
from hypothesis import given, settings
from hypothesis import strategies as st

import tasksets
from tasksets import registry
from tasksets.activations import ACTIVATIONS
from tasksets.names import NOT_APPLIED, TaskName, override, parse
from tasksets.task import SPLITS

SEEDS = st.integers(0, 2000)
SIZES = st.integers(1, 9)
WIDTHS = st.lists(SIZES, min_size=1, max_size=3).map(tuple)
INITIALIZERS = (
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "variance_scaling",
)

# Values of fields whose type allows too much, by the name of the field.
VALID = {
    "activation": st.sampled_from(sorted(ACTIVATIONS)),
    "boundary_weight": st.floats(0, 100),
    "decay": st.floats(0, 4),
    "decoder": WIDTHS,
    "encoder": WIDTHS,
    "hidden": WIDTHS,
    "init_scale": st.floats(0.1, 10),
    "initializer": st.sampled_from(INITIALIZERS),
    "initializer_scale": st.none() | st.floats(0.1, 10),
    "label_noise": st.floats(0, 1),
    "label_smoothing": st.floats(0, 0.99),
    "loss": st.sampled_from(["l1", "l2"]),
    "loss_scale": st.floats(1e-5, 1e3),
    "max_token": st.none() | st.just(8185),
    "num_train": st.none() | st.integers(1, 10**6),
    "optimizer": st.sampled_from(["adam", "momentum", "scale_free"]),
    "patch": st.sampled_from([1, 2, 4, 8]),
    "patch_length": st.integers(2, 9),
    "pool": st.sampled_from(["max", "mean", "squared_mean"]),
    "positions": st.sampled_from(["learned", "sinusoidal"]),
    "readout": st.sampled_from(["avg", "last", "max"]),
    "reduction": st.sampled_from(["mean", "sum"]),
    "reparam_scale": st.floats(0.01, 100),
    "seed": st.integers(0, 10**5 - 1),
    "sigma": st.floats(1e-3, 1),
    "stem_kernel": st.sampled_from([1, 3, 5]),
    "task": SEEDS.map(lambda seed: f"small_mlp/seed{seed}@digits"),
    "train_fraction": st.floats(0, 1),
    "vocab_size": st.integers(2, 300),
}
# Fields that must fit one another.
JOINT = {
    ("channels", "strides", "padding"): st.lists(
        st.tuples(SIZES, st.integers(1, 2), st.just("SAME")), min_size=1, max_size=3
    ).map(lambda layers: tuple(zip(*layers, strict=True))),
    ("blocks", "channels", "bottlenecks"): st.lists(
        st.tuples(st.integers(1, 2), SIZES, SIZES), min_size=1, max_size=2
    ).map(lambda groups: tuple(zip(*groups, strict=True))),
}
# What a name does not set, or what means something else in each family.
LEFT_ALONE = {
    "augmentation",
    "core",
    "core_activation",
    "core_initializers",
    "dataset",
    "matrix",
    "noise",
    "num_per_valid",
    "output",
    "problem",
    "sampled_dataset",
    "start",
}
BY_TYPE = {bool: st.booleans(), int: SIZES, tuple[int, ...]: WIDTHS}

every_family = pytest.mark.parametrize("family", small_variants.families())


def _overrides(family: str) -> st.SearchStrategy[dict[str, typing.Any]]:
    """Some fields of a config, with valid values; a field nobody knows is an error."""
    config = type(registry.config(f"{family}/seed0"))
    hints = typing.get_type_hints(config)
    fields = {
        field.name: hints[field.name]
        for field in dataclasses.fields(config)
        if field.metadata != NOT_APPLIED
    }
    strategies = {
        field: VALID[field] if field in VALID else BY_TYPE[hint]
        for field, hint in fields.items()
        if field not in LEFT_ALONE and not any(field in joint for joint in JOINT)
    }
    alone = st.fixed_dictionaries({}, optional=strategies)
    for joint, strategy in JOINT.items():
        if fields.keys() >= set(joint):
            together = strategy.map(
                lambda values, joint=joint: dict(zip(joint, values, strict=True))
            )
            return st.builds(lambda a, b: {**a, **b}, alone, together | st.just({}))
    return alone


def _spell(value) -> str:
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return repr(value) if isinstance(value, float) else str(value)


def _name(family: str, seed: int, overrides: dict[str, typing.Any]) -> TaskName:
    """The small variant with fields changed, in any order."""
    small = parse(small_variants.small(family, seed))
    spelled = {field: _spell(value) for field, value in overrides.items()}
    fields = list({**dict(small.fields), **spelled}.items())
    random.shuffle(fields)
    return dataclasses.replace(small, fields=tuple(fields))


@every_family
@settings(max_examples=20, deadline=None)
@given(data=st.data(), seed=SEEDS)
def test_a_name_sets_what_it_says_and_is_spelled_in_one_way(family, data, seed):
    overrides = data.draw(_overrides(family))
    name = _name(family, seed, overrides)
    config = registry.config(str(name))
    unchanged = registry.config(small_variants.small(family, seed))
    assert config == dataclasses.replace(unchanged, **overrides)
    assert hash(config) == hash(registry.config(str(name)))

    sampled = registry.config(name.root)
    found, canonical = override(sampled, name)
    assert found == config
    assert override(sampled, canonical) == (config, canonical)
    reordered = dataclasses.replace(name, fields=name.fields[::-1])
    assert override(sampled, reordered) == (config, canonical)
    assert parse(str(canonical)) == canonical
    assert registry.config(str(canonical)) == config
    assert registry.split_of(str(canonical)) == registry.split_of(name.root)


@every_family
@settings(max_examples=3, deadline=None)
@given(data=st.data(), seed=SEEDS)
def test_a_valid_variant_builds_and_has_a_scalar_loss(family, data, seed):
    name = _name(family, seed, data.draw(_overrides(family)))
    task = tasksets.get(str(name))
    assert tasksets.get(task.name).name == task.name
    key = jax.random.key(0)

    def losses(task):
        params = task.init(key)
        return params, [task.loss(params, task.batch(s, key), key) for s in SPLITS[:2]]

    params, losses_of_splits = jax.eval_shape(losses, task)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    for loss in losses_of_splits:
        assert loss.shape == () and loss.dtype == jnp.float32
