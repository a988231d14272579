"""Wrappers: each changes what it says, nothing else, on any task and on each other."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_variants
from hypothesis import given, settings
from hypothesis import strategies as st

import tasksets
from tasksets import wrappers
from tasksets.losg import samples
from tasksets.names import UnknownNameError
from tasksets.task import SPLITS, Problem, Task

KEY = jax.random.key(5)
SMALL = "small_mlp/seed3@digits?hidden=6&activation=tanh&batch_size=8"
BOWL = "quadratic_family/seed8?dims=5"  # no noise
NOISY_BOWL = "quadratic_family/seed5?dims=5&output=log"
NAMES = [
    SMALL,
    "mlp_family/seed2@digits?hidden=8-8&batch_size=8",
    "mlp_family/seed6@wine?hidden=8&batch_size=8",
    NOISY_BOWL,
]
GRADIENT_SUFFIXES = {
    "noise": "+gradient_noise:std=0.1",
    "normalized": "+normalized_gradient",
    "subspace": "+subspace_gradient:directions=3&sign=false",
    "signs": "+subspace_gradient:directions=3&sign=true",
    "es": "+es_gradient:std=0.01&pairs=2",
    "noise twice": "+gradient_noise:std=0.1+gradient_noise:std=0.2",
}
SUFFIXES = {
    **GRADIENT_SUFFIXES,
    "bf16": "+bf16",
    "global": "+reparametrized:level=global&low=0.1&high=10.0&seed=3",
    "tensor": "+reparametrized:level=tensor&low=0.1&high=10.0&seed=3",
    "parameter": "+reparametrized:level=parameter&low=0.1&high=10.0&seed=3",
    "batch": "+reduced_batch:fraction=0.5",
}
# VeLO's order, everything at once.
ALL = (
    SUFFIXES["tensor"]
    + SUFFIXES["es"]
    + SUFFIXES["batch"]
    + SUFFIXES["bf16"]
    + SUFFIXES["normalized"]
    + SUFFIXES["subspace"]
    + SUFFIXES["noise"]
)
every_suffix = pytest.mark.parametrize("suffix", [*SUFFIXES.values(), ALL])
# Every wrapper on some task, and all of them on every task: compiling takes its time.
some_pairs = pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *((name, ALL) for name in NAMES),
        *((NAMES[i % 3], suffix) for i, suffix in enumerate(SUFFIXES.values())),
    ],
)
some_gradient_pairs = pytest.mark.parametrize(
    ("name", "suffix"),
    [(NAMES[-1 - i % 3], each) for i, each in enumerate(GRADIENT_SUFFIXES.values())],
)


def _get(name: str) -> Task:
    base, suffix = wrappers.split(name)
    return wrappers.apply(tasksets.get(base), suffix)


def _step(task: Task, key):
    init_key, batch_key, loss_key = jax.random.split(key, 3)
    params, batch = task.init(init_key), task.batch("train", batch_key)
    loss, grads = jax.value_and_grad(task.loss)(params, batch, loss_key)
    return params, loss, grads, task.metrics(params, batch, loss_key)


_step_jit = jax.jit(_step)


def _assert_close(first: Any, second: Any, rtol: float = 1e-5, atol: float = 1e-6):
    """Leaf by leaf, with `atol` relative to the largest entry of a leaf."""

    def check(a, b):
        scale = float(np.max(np.abs(a), initial=0.0))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol * scale)

    jax.tree.map(check, first, second)


def _assert_equal(first: Any, second: Any):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def _suits(name: str, suffix: str) -> bool:
    return "reduced_batch" not in suffix or not name.startswith("quadratic")


# Every wrapper on every kind of task


@some_pairs
def test_a_wrapped_task_is_a_task(name, suffix):
    if not _suits(name, suffix):
        suffix = suffix.replace(SUFFIXES["batch"], "")
    task, wrapped = tasksets.get(name), _get(name + suffix)
    params, loss, grads, metrics = _step_jit(wrapped, KEY)
    assert loss.shape == () and loss.dtype == jnp.float32
    assert metrics.keys() == _step_jit(task, KEY)[3].keys()
    plain = jax.eval_shape(task.init, KEY)
    for tree in (params, grads):
        assert jax.eval_shape(lambda: tree) == plain  # noqa: B023
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
    assert hash(wrapped.problem) == hash(_get(name + suffix).problem)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(wrapped.numbers))
    losses = jnp.array([0.1, 1.0, 2.0, jnp.nan])
    np.testing.assert_array_equal(wrapped.normalize(losses), task.normalize(losses))


@pytest.mark.parametrize(
    "suffix",
    [
        ALL,
        SUFFIXES["parameter"] + SUFFIXES["batch"] + SUFFIXES["es"],
    ],
)
def test_lanes_of_different_numbers_equal_the_tasks_alone_inside_a_scan(suffix):
    numbers = [f"{SMALL}&init_scale={scale}" for scale in (0.5, 2.0)]
    changed = suffix.replace("std=0.1", "std=0.3").replace("seed=3", "seed=4")
    changed = changed.replace("std=0.01", "std=0.02")
    tasks = [_get(numbers[0] + suffix), _get(numbers[1] + changed)]
    stacked = tasksets.stack(tasks)

    def train(task, key):
        def step(params, key):
            batch = task.batch("train", key)
            loss, grads = jax.value_and_grad(task.loss)(params, batch, key)
            return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), loss

        return jax.lax.scan(step, task.init(key), jax.random.split(key, 3))

    keys = jax.random.split(KEY, 2)
    axes = tasksets.lane_axes(stacked)
    lanes = jax.jit(jax.vmap(train, in_axes=(axes, 0)))(stacked, keys)
    for i, task in enumerate(tasks):
        alone = jax.jit(train)(task, keys[i])
        lane = jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
        low = "bf16" in suffix  # its roundings depend on how a loss is fused
        # Evolution strategies divide a rounded difference by a small number.
        coarse = 5e-3 if "es_" in suffix else 1e-4
        if not low:
            _assert_close(alone, lane, rtol=coarse, atol=coarse)
        else:
            np.testing.assert_allclose(alone[1], lane[1], rtol=0.05)


@some_gradient_pairs
def test_a_wrapper_of_gradients_leaves_the_value_bit_by_bit(name, suffix):
    task, wrapped = tasksets.get(name), _get(name + suffix)
    params, batch = task.init(KEY), task.batch("train", KEY)
    _assert_equal(wrapped.init(KEY), params)
    _assert_equal(wrapped.batch("train", KEY), batch)
    value = jax.jit(lambda task, *args: task.loss(*args))
    expected = value(task, params, batch, KEY)
    assert value(wrapped, params, batch, KEY) == expected
    both = jax.jit(lambda task, *args: jax.value_and_grad(task.loss)(*args))
    plain_loss, plain_grads = both(task, params, batch, KEY)
    loss, grads = both(wrapped, params, batch, KEY)
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-6)
    assert all(
        np.any(g != plain)
        for g, plain in zip(
            jax.tree.leaves(grads), jax.tree.leaves(plain_grads), strict=True
        )
    )


@pytest.mark.parametrize("suffix", [SUFFIXES["es"], SUFFIXES["normalized"]])
def test_the_gradient_is_linear_in_the_loss_and_the_same_forward(suffix):
    task = _get(SMALL + suffix)
    params, batch = task.init(KEY), task.batch("train", KEY)
    loss = jax.jit(lambda params: task.loss(params, batch, KEY))
    grads = jax.grad(loss)(params)
    tripled = jax.grad(lambda params: 3 * loss(params))(params)
    _assert_close(tripled, jax.tree.map(lambda g: 3 * g, grads))
    _, slope = jax.jvp(loss, (params,), (params,))
    products = jax.tree.map(lambda g, p: jnp.sum(g * p), grads, params)
    np.testing.assert_allclose(slope, sum(jax.tree.leaves(products)), rtol=1e-4)


def test_the_batch_counts_as_a_constant_under_a_wrapped_gradient():
    task = _get(SMALL + "+normalized_gradient")
    params, batch = task.init(KEY), task.batch("train", KEY)
    loss = lambda inputs: task.loss(params, batch._replace(inputs=inputs), KEY)
    assert not np.any(jax.grad(loss)(batch.inputs))


# Closed forms on a quadratic bowl


def _gradients(suffix: str, num_keys: int = 40000):
    """The gradient of the plain bowl at its start, and many of the wrapped one."""
    task, wrapped = tasksets.get(BOWL), _get(BOWL + suffix)
    params = task.init(KEY)
    plain = jax.grad(task.loss)(params, (), KEY)["x"]
    grad = lambda key: jax.grad(wrapped.loss)(params, (), key)["x"]
    draws = jax.jit(jax.vmap(grad))(jax.random.split(KEY, num_keys))
    return np.asarray(plain, np.float64), np.asarray(draws, np.float64)


def _assert_moments(draws, mean, covariance):
    """Within five standard errors, which have to be small beside the size of a draw."""
    num, dims = draws.shape
    size = np.sqrt(np.trace(covariance) + mean @ mean)
    error = np.sqrt(np.diag(covariance) / num)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * error + 1e-4 * size)
    assert 5 * error.max() < 0.05 * size
    found = np.cov(draws.T)
    centred = draws - draws.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(0) / np.sqrt(num)
    assert np.all(np.abs(found - covariance) < 5 * error + 1e-4 * size**2)
    assert 5 * error.max() < 0.1 * np.trace(covariance)


@pytest.mark.parametrize("std", [0.01, 3.0])
def test_gradient_noise_is_normal_with_the_deviation_it_says(std):
    plain, draws = _gradients(f"+gradient_noise:std={std}")
    _assert_moments((draws - plain) / std, np.zeros(5), np.eye(5))
    kurtosis = np.mean(((draws - plain) / std) ** 4)
    assert abs(kurtosis - 3) < 5 * np.sqrt(96 / draws.size)


def test_two_noises_are_independent_of_each_other():
    plain, draws = _gradients("+gradient_noise:std=3.0+gradient_noise:std=4.0")
    # Equal draws would give a deviation of 7, opposite ones of 1.
    _assert_moments(draws - plain, np.zeros(5), 25 * np.eye(5))


def test_noise_is_independent_of_the_noise_within_the_loss():
    task, std = tasksets.get(NOISY_BOWL), 0.7
    noisy = wrappers.GradientNoise(std)(task)
    params = task.init(KEY)
    grad = lambda task, key: jax.grad(task.loss)(params, (), key)["x"]
    keys = jax.random.split(KEY, 10000)
    inside = jax.vmap(lambda key: grad(task, key))(keys)
    added = np.asarray(jax.vmap(lambda key: grad(noisy, key))(keys) - inside) / std
    inside = np.asarray((inside - inside.mean(0)) / inside.std(0))
    np.testing.assert_allclose(added.std(0), 1, atol=0.04)
    np.testing.assert_allclose(inside.T @ added / len(keys), 0, atol=0.05)


def test_no_key_of_a_wrapper_is_one_that_split_gives():
    task = _get(BOWL + "+gradient_noise:std=1.0" * 3)
    own = [task.problem, task.problem.inner, task.problem.inner.inner]
    keys = [jax.random.key_data(problem.own_key(KEY)) for problem in own]
    given_to_families = jax.random.key_data(jax.random.split(KEY, 1000))
    every = np.concatenate([np.stack(keys), given_to_families])
    assert len(np.unique(every, axis=0)) == 1003


def test_a_normalized_gradient_is_the_gradient_over_its_norm():
    plain, draws = _gradients("+normalized_gradient", num_keys=2)
    expected = plain / np.linalg.norm(plain)
    np.testing.assert_allclose(draws, np.stack([expected] * 2), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 1e37])
def test_the_norm_neither_overflows_nor_vanishes_over_all_tensors(scale):
    task = _slope([3 * scale, 0.0], 4 * scale)
    params = task.init(KEY)
    grads = jax.grad(wrappers.NormalizedGradient()(task).loss)(params, (), KEY)
    np.testing.assert_allclose(grads["a"], [0.6, 0.0], rtol=1e-5)
    np.testing.assert_allclose(grads["b"], 0.8, rtol=1e-5)


@pytest.mark.parametrize("suffix", ["normalized", "subspace", "signs", "es"])
def test_where_there_is_no_gradient_none_is_made_up(suffix):
    task = wrappers.apply(_slope([0.0, 0.0], 0.0), SUFFIXES[suffix])
    loss = lambda params: task.loss(params, (), KEY)
    grads = jax.grad(loss)(task.init(KEY))
    hessian = jax.hessian(loss)(task.init(KEY))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves((grads, hessian)))


@pytest.mark.parametrize("n", [1, 3])
def test_random_directions_have_the_law_of_their_definition(n):
    g, draws = _gradients(f"+subspace_gradient:directions={n}&sign=false")
    # Of e <e, g>: mean g, covariance |g|^2 I + g g^T (Isserlis).
    _assert_moments(draws, g, (g @ g * np.eye(5) + np.outer(g, g)) / n)


@pytest.mark.parametrize("n", [1, 3])
def test_signs_along_random_directions_have_the_law_of_their_definition(n):
    g, draws = _gradients(f"+subspace_gradient:directions={n}&sign=true")
    u = g / np.linalg.norm(g)
    # Of e sign<e, u>: |a| along u, a standard normal across it.
    mean, covariance = np.sqrt(2 / np.pi) * u, np.eye(5) - 2 / np.pi * np.outer(u, u)
    _assert_moments(draws, mean, covariance / n)


@pytest.mark.parametrize("sign", [False, True])
def test_random_directions_agree_with_directions_that_are_drawn(sign):
    """Beyond two moments: quantiles along the gradient, and of the length across."""
    n = 2
    g, fast = _gradients(f"+subspace_gradient:directions={n}&sign={str(sign).lower()}")
    e = np.random.RandomState(0).normal(size=(len(fast), n, 5))
    seen = e @ g
    seen = np.sign(seen) if sign else seen
    slow = np.mean(e * seen[..., None], axis=1)
    u = g / np.linalg.norm(g)
    across = lambda draws: np.linalg.norm(draws - np.outer(draws @ u, u), axis=1)
    for statistic in (lambda draws: draws @ u, across):
        assert _kolmogorov_smirnov(statistic(fast), statistic(slow)) < 0.02
    assert _kolmogorov_smirnov(fast @ u, across(fast)) > 0.1


def _kolmogorov_smirnov(first, second):
    """Above .02 with probability 1e-7 for equal laws and two times 40000 draws."""
    grid = np.concatenate([first, second])
    below = lambda x: np.searchsorted(np.sort(x), grid, side="right") / len(x)
    return np.max(np.abs(below(first) - below(second)))


@pytest.mark.parametrize(("std", "pairs"), [(0.01, 1), (1.0, 4)])
def test_evolution_strategies_are_unbiased_on_a_quadratic(std, pairs):
    g, draws = _gradients(f"+es_gradient:std={std}&pairs={pairs}")
    # A pair's difference on a quadratic is <e, g> exactly, whatever the std.
    _assert_moments(draws, g, (g @ g * np.eye(5) + np.outer(g, g)) / pairs)


def test_evolution_strategies_see_the_slope_of_a_loss_without_derivative():
    task = Task(_Stairs(), _no_numbers())
    params = jnp.float32(0.5)
    assert jax.grad(task.loss)(params, (), KEY) == 0
    estimate = wrappers.EsGradient(std=3.0, pairs=200)(task)
    slope = jax.grad(estimate.loss)(params, (), KEY)
    np.testing.assert_allclose(slope, 1, atol=0.5)
    assert estimate.loss(params, (), KEY) == 0


def test_both_losses_of_a_pair_share_the_batch_and_the_key():
    task = tasksets.get(NOISY_BOWL)
    estimate = wrappers.EsGradient(std=1e-3, pairs=2000)(task)
    params = task.init(KEY)
    g = jax.grad(task.loss)(params, (), KEY)["x"]
    found = jax.grad(estimate.loss)(params, (), KEY)["x"]
    np.testing.assert_allclose(found, g, atol=0.2 * float(jnp.linalg.norm(g)))


def test_second_derivatives_are_what_the_wrappers_say():
    task = tasksets.get(BOWL)
    x = task.init(KEY)["x"]
    hessian = lambda task: jax.hessian(lambda x: task.loss({"x": x}, (), KEY))(x)
    g, h = jax.grad(lambda x: task.loss({"x": x}, (), KEY))(x), hessian(task)
    np.testing.assert_allclose(hessian(_get(BOWL + SUFFIXES["noise"])), h, rtol=1e-5)
    norm = jnp.linalg.norm(g)
    u = g / norm
    expected = (h - jnp.outer(u, u @ h)) / norm
    found = hessian(_get(BOWL + SUFFIXES["normalized"]))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    for suffix in ("subspace", "signs", "es"):
        assert np.isfinite(hessian(_get(BOWL + SUFFIXES[suffix]))).all()


# Reparametrisation


@pytest.mark.parametrize("level", ["global", "tensor", "parameter"])
@pytest.mark.parametrize("name", [SMALL, BOWL])
def test_reparametrisation_leaves_the_function_and_scales_params_and_gradient(
    name, level
):
    task = tasksets.get(name)
    wrapped = wrappers.Reparametrized(level, 1e-3, 1e3, seed=1)(task)
    params, loss, grads, metrics = _step_jit(task, KEY)
    own_params, own_loss, own_grads, own_metrics = _step_jit(wrapped, KEY)
    scales = wrapped.problem.scales(wrapped.numbers.own, params)
    np.testing.assert_allclose(own_loss, loss, rtol=1e-4)
    _assert_close(metrics, own_metrics)
    _assert_close(jax.tree.map(jnp.multiply, own_params, scales), params)
    _assert_close(jax.tree.map(jnp.divide, own_grads, scales), grads, 1e-3, 1e-5)


def test_the_level_says_which_parameters_share_a_scale():
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones(5)}

    def distinct(level):
        wrapped = wrappers.Reparametrized(level, 0.1, 10, seed=1)(tasksets.get(BOWL))
        scales = wrapped.problem.scales(wrapped.numbers.own, params)
        full = jax.tree.map(lambda s, p: jnp.broadcast_to(s, p.shape), scales, params)
        return len(np.unique(np.concatenate([np.ravel(s) for s in full.values()])))

    assert [distinct(level) for level in wrappers.reparametrized.LEVELS] == [1, 2, 17]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("level", wrappers.reparametrized.LEVELS)
def test_no_seed_puts_a_scale_at_the_end_of_its_range(level, seed):
    wrapped = wrappers.Reparametrized(level, 0.1, 10, seed)(tasksets.get(BOWL))
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones(5)}
    for scales in wrapped.problem.scales(wrapped.numbers.own, params).values():
        assert np.all(scales > 0.1001) and np.all(scales < 9.99)


def test_equal_bounds_fix_the_scale():
    wrapped = wrappers.Reparametrized("global", 4.0, 4.0, seed=9)(tasksets.get(BOWL))
    plain = tasksets.get(BOWL).init(KEY)["x"]
    np.testing.assert_allclose(wrapped.init(KEY)["x"] * 4, plain, rtol=1e-6)


def test_scales_are_log_uniform_and_independent_over_places_tensors_and_seeds():
    size = 20000
    params = {"a": jnp.zeros((100, size // 100)), "b": jnp.zeros(size)}

    def logs(seed):
        task = wrappers.Reparametrized("parameter", 1e-3, 1e3, seed)(tasksets.get(BOWL))
        scales = task.problem.scales(task.numbers.own, params)
        return [np.log10(np.ravel(scales[k])) / 6 + 0.5 for k in ("a", "b")]

    a, b = logs(1)
    other, _ = logs(2)
    for u in (a, b, other):
        counts = np.histogram(np.clip(u, 0, 1), bins=20, range=(0, 1))[0]
        # 19 degrees of freedom: 43.8 is exceeded with probability 0.001.
        assert counts.sum() == size
        assert np.sum((counts - size / 20) ** 2 / (size / 20)) < 43.8
    pairs = [
        (a, b),
        (a, other),
        (a[1:], a[:-1]),
        (a[200:], a[:-200]),
        (a[::2], a[1::2]),
    ]
    for first, second in pairs:
        # Four standard errors of a correlation.
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(len(first))


def test_global_scales_are_log_uniform_over_seeds():
    task = wrappers.Reparametrized("global", 1e-2, 1e2, 0)(tasksets.get(BOWL))
    own = task.numbers.own
    scale = lambda seed: task.problem.scales(own._replace(seed=seed), jnp.zeros(()))
    scales = jax.vmap(scale)(jnp.arange(10000, dtype=jnp.uint32))
    u = np.log10(np.asarray(scales)) / 4 + 0.5
    counts = np.histogram(np.clip(u, 0, 1), bins=20, range=(0, 1))[0]
    assert counts.sum() == 10000 and np.sum((counts - 500) ** 2 / 500) < 43.8


# bfloat16


def _dtypes_of(jaxpr, primitive: str) -> set[str]:
    found: set[str] = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == primitive:
            found |= {str(variable.aval.dtype) for variable in eqn.invars}
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= _dtypes_of(inner, primitive)
    return found


def _in_bfloat16(x):
    return x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x


_OF_NETWORKS = sorted(
    small_variants.FAMILIES.keys()
    - {"losg_tasks_family", "lopt_pes", "pinn", "quadratic_family"}
)


@pytest.mark.parametrize("family", _OF_NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_networks_of_all_families_are_in_bfloat16_and_their_losses_are_not(
    family, seed
):
    task = tasksets.get(small_variants.small(family, seed))
    low = jax.tree.map(_in_bfloat16, (task.numbers, task.init(KEY)))
    batch = jax.tree.map(_in_bfloat16, task.batch("train", KEY))
    loss = jax.make_jaxpr(task.problem.loss)(*low, batch, KEY)
    for product in ("dot_general", "conv_general_dilated"):
        assert _dtypes_of(loss.jaxpr, product) <= {"bfloat16"}
    assert loss.out_avals[0].dtype == jnp.float32


def test_estimated_gradients_are_not_lost_in_the_rounding_of_a_bfloat16_loss():
    name = "mlp_family/seed3@digits?hidden=8&batch_size=32"
    _, _, exact, _ = _step_jit(_get(name), KEY)
    _, _, found, _ = _step_jit(_get(f"{name}+bf16+es_gradient:std=0.02&pairs=64"), KEY)
    a, b = (
        np.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (exact, found)
    )
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.3


@pytest.mark.parametrize("name", [n for n in NAMES if "mlp" in n] + [BOWL])
@pytest.mark.parametrize("around", ["", SUFFIXES["parameter"] + SUFFIXES["noise"]])
def test_all_matrix_products_of_loss_and_gradient_are_in_bfloat16(name, around):
    for task in (_get(f"{name}{around}+bf16"), _get(f"{name}+bf16{around}")):
        params, batch = task.init(KEY), task.batch("train", KEY)
        both = jax.make_jaxpr(jax.value_and_grad(task.loss))(params, batch, KEY)
        assert _dtypes_of(both.jaxpr, "dot_general") == {"bfloat16"}
        metrics = jax.make_jaxpr(task.metrics)(params, batch, KEY)
        assert _dtypes_of(metrics.jaxpr, "dot_general") <= {"bfloat16"}
        assert all(out.dtype == jnp.float32 for out in metrics.out_avals)


@pytest.mark.parametrize(
    ("name", "around"),
    [*((name, "") for name in NAMES), (SMALL, SUFFIXES["parameter"])],
)
def test_bfloat16_is_the_loss_rounded_and_parameters_stay_float32(name, around):
    params, loss, _, _ = _step_jit(_get(name + around), KEY)
    own_params, own_loss, own_grads, _ = _step_jit(_get(f"{name}{around}+bf16"), KEY)
    _assert_equal(params, own_params)
    assert own_loss != loss
    np.testing.assert_allclose(own_loss, loss, rtol=0.05)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(own_grads))


def test_scales_are_one_number_at_the_start_and_in_a_bfloat16_loss():
    # The logarithms of these bounds lie between two bfloat16 numbers: with rounded
    # bounds a weight would be off by 1.6%.
    low, high = 0.004854, 1 / 0.004854
    wrapped = wrappers.Reparametrized("parameter", low, high, 1)(Task(_Sum(), _LOSSES))
    bf16 = wrappers.Bf16()(wrapped)
    # Two roundings, of a scale and of a product, to eight bits each.
    np.testing.assert_allclose(bf16.loss(bf16.init(KEY), (), KEY), 1, rtol=2.5 * 2**-8)


# Smaller batches


@pytest.mark.parametrize(("fraction", "size"), [(0.01, 1), (0.3, 2), (0.5, 4), (1, 8)])
def test_a_reduced_batch_is_the_beginning_of_the_batch(fraction, size):
    task = tasksets.get(SMALL)
    reduced = wrappers.ReducedBatch(fraction)(task)
    for split in SPLITS:
        whole, part = task.batch(split, KEY), reduced.batch(split, KEY)
        _assert_equal(part, jax.tree.map(lambda leaf: leaf[:size], whole))
        assert part.labels.shape == (size,)
    assert reduced.problem.batch_size == size


def test_reduced_batches_of_one_size_stack_whatever_the_fraction():
    tasks = [wrappers.ReducedBatch(f)(tasksets.get(SMALL)) for f in (0.25, 0.3)]
    assert tasksets.stack(tasks).num_lanes == 2


def test_a_batch_without_an_axis_of_examples_is_refused():
    reduce = wrappers.ReducedBatch(0.5)
    with pytest.raises(ValueError, match="no batch to reduce"):
        reduce(tasksets.get(BOWL))
    for shapes in [{"x": (4, 2), "y": (3,)}, {"x": (4,), "scale": ()}]:
        problem = _Batches(tuple(shapes.values()))
        with pytest.raises(ValueError, match="examples as its first axis"):
            reduce(Task(problem, _LOSSES))
    uneven = _Batches(((4,),), test_size=3)
    with pytest.raises(ValueError, match=r"different sizes, \[3, 4\]"):
        reduce(Task(uneven, _LOSSES))


@pytest.mark.parametrize(
    "build",
    [samples.sum_of_quadratics, samples.projected_quadratic, samples.outward_snake],
)
def test_a_sum_over_a_reduced_batch_begins_where_the_whole_does(build):
    whole = Task(*build(5, 32, 64, 0))
    reduced = wrappers.ReducedBatch(0.25)(whole)

    def mean_loss(task):
        def one(key):
            keys = jax.random.split(key, 3)
            params, batch = task.init(keys[0]), task.batch("train", keys[1])
            return task.loss(params, batch, keys[2])

        return float(jnp.mean(jax.vmap(one)(jax.random.split(KEY, 256))))

    assert mean_loss(reduced) == pytest.approx(mean_loss(whole), rel=0.2)


# Names


@every_suffix
def test_the_name_of_a_wrapped_task_gives_it_back(suffix):
    wrapped = _get(SMALL + suffix)
    assert wrapped.name == tasksets.get(SMALL).name + suffix
    again = _get(wrapped.name)
    assert again.problem == wrapped.problem
    _assert_equal(again.numbers, wrapped.numbers)
    assert "".join(map(str, wrappers.parse(suffix))) == suffix


def test_suffixes_have_one_spelling():
    spelled = (
        "+reparametrized:seed=07&high=1e1&low=.1&level=global+gradient_noise:std=1"
    )
    canonical = (
        "+reparametrized:level=global&low=0.1&high=10.0&seed=7+gradient_noise:std=1.0"
    )
    assert _get(BOWL + spelled).name == tasksets.get(BOWL).name + canonical
    by_hand = wrappers.GradientNoise(std=1)(tasksets.get(BOWL))
    assert by_hand.name.endswith("+gradient_noise:std=1.0")


def test_a_name_is_split_at_the_first_wrapper_and_not_in_a_number():
    assert wrappers.split("a/seed1?x=1e+22+bf16") == ("a/seed1?x=1e+22", "+bf16")
    assert wrappers.split("a/seed1@digits") == ("a/seed1@digits", "")
    (noise,) = wrappers.parse("+gradient_noise:std=1e+22")
    assert noise == wrappers.GradientNoise(1e22)
    assert wrappers.parse(str(noise)) == (noise,)


_positive = st.floats(1e-30, 1e30)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(wrappers.GradientNoise, std=_positive),
            st.builds(wrappers.EsGradient, std=_positive, pairs=st.integers(1, 99)),
            st.builds(wrappers.ReducedBatch, fraction=st.floats(1e-9, 1)),
            st.builds(
                wrappers.SubspaceGradient,
                directions=st.integers(1, 9999),
                sign=st.booleans(),
            ),
            st.builds(
                wrappers.Reparametrized,
                level=st.sampled_from(wrappers.reparametrized.LEVELS),
                low=st.floats(1e-30, 1.0),
                high=st.floats(1.0, 1e30),
                seed=st.integers(0, 2**32 - 1),
            ),
            st.just(wrappers.Bf16()),
            st.just(wrappers.NormalizedGradient()),
        )
    )
)
def test_any_wrappers_are_read_back_from_their_suffix(drawn):
    assert wrappers.parse("".join(map(str, drawn))) == tuple(drawn)


@pytest.mark.parametrize(
    ("suffix", "error", "says"),
    [
        ("+gradient_nose:std=1", UnknownNameError, "nearest: gradient_noise"),
        ("+gradient_noise:sdt=1", UnknownNameError, "nearest: std"),
        ("+gradient_noise", ValueError, "lacks std"),
        ("+es_gradient:std=1", ValueError, "lacks pairs; .* std, pairs"),
        ("+es_gradient:std=1&pairs=1.5", ValueError, "cannot read pairs='1.5' as int"),
        ("+gradient_noise:std=1&std=2", ValueError, "sets std twice"),
        ("+gradient_noise:std", ValueError, "not of form field=value"),
        ("+subspace_gradient:directions=2&sign=yes", ValueError, "sign='yes' as bool"),
        ("+bf16:std=1", ValueError, "bf16 has no fields"),
        ("bf16", ValueError, "cannot read the suffix 'bf16'"),
        ("+1", ValueError, "cannot read the suffix"),
        ("+gradient_noise:std=-1", ValueError, "std is positive"),
        ("+gradient_noise:std=nan", ValueError, "std is positive"),
        ("+es_gradient:std=0&pairs=1", ValueError, "std is positive"),
        ("+es_gradient:std=1&pairs=0", ValueError, "pairs is at least 1"),
        ("+reduced_batch:fraction=0", ValueError, r"fraction is in \(0, 1\]"),
        ("+reduced_batch:fraction=1.5", ValueError, r"fraction is in \(0, 1\]"),
        (
            "+subspace_gradient:directions=0&sign=true",
            ValueError,
            "directions is at least 1",
        ),
        (
            "+reparametrized:level=layer&low=1&high=2&seed=0",
            ValueError,
            "global, tensor, parameter",
        ),
        (
            "+reparametrized:level=global&low=3&high=2&seed=0",
            ValueError,
            "low is at most high",
        ),
        (
            "+reparametrized:level=global&low=0&high=2&seed=0",
            ValueError,
            "positive and finite",
        ),
        (
            "+reparametrized:level=global&low=1&high=2&seed=-1",
            ValueError,
            "seed is in 0",
        ),
    ],
)
def test_a_suffix_that_means_nothing_says_what_would(suffix, error, says):
    with pytest.raises(error, match=says):
        wrappers.parse(suffix)


def test_a_stack_is_not_wrapped_and_a_task_without_a_name_gets_none():
    task = tasksets.get(BOWL)
    with pytest.raises(ValueError, match="wrap each task and stack"):
        wrappers.Bf16()(tasksets.stack([task, task]))
    assert wrappers.Bf16()(dataclasses.replace(task, name="")).name == ""
    with pytest.raises(ValueError, match="has no name"):
        wrappers.sample(dataclasses.replace(task, name=""), seed=0)


def test_a_task_wrapped_inside_a_trace_is_made_of_arrays():
    task, kept = tasksets.get(SMALL), []

    @jax.jit
    def loss(key):
        wrapped = wrappers.apply(task, ALL)
        kept.append(wrapped)
        return wrapped.loss(wrapped.init(key), wrapped.batch("train", key), key)

    loss(KEY)
    leaves = jax.tree.leaves(kept[0].numbers)
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


# VeLO's augmentations


def test_the_wrappers_are_a_function_of_the_name_and_the_seed():
    task, other = tasksets.get(SMALL), tasksets.get(NAMES[1])
    drawn = [wrappers.draw(task, seed) for seed in range(200)]
    assert drawn == [wrappers.draw(tasksets.get(SMALL), seed) for seed in range(200)]
    assert drawn != [wrappers.draw(other, seed) for seed in range(200)]
    assert len(set(drawn)) > 100
    # Pinned, because a name with a seed must mean the same for ever.
    assert "".join(map(str, drawn[PINNED_SEED])) == PINNED


PINNED_SEED = 17
PINNED = (
    "+reparametrized:level=tensor&low=0.01&high=100.0&seed=3777731449"
    "+es_gradient:std=0.008345102747534297&pairs=2+bf16"
)


def test_every_wrapper_comes_with_the_chance_and_law_of_velo():
    task = tasksets.get(SMALL)
    num = 2000
    drawn = [wrappers.draw(task, seed) for seed in range(num)]
    chances = dataclasses.asdict(wrappers.Chances())
    by_keyword = {keyword: [] for keyword in chances}
    for wrapper in (wrapper for each in drawn for wrapper in each):
        by_keyword[wrapper.keyword].append(wrapper)
    for keyword, p in chances.items():
        error = np.sqrt(p * (1 - p) / num)
        assert abs(len(by_keyword[keyword]) / num - p) <= 4 * error, keyword
    order = list(chances)
    for each in drawn:
        places = [order.index(wrapper.keyword) for wrapper in each]
        assert places == sorted(set(places))
    scaled = by_keyword["reparametrized"]
    for level, p in {"global": 0.4, "tensor": 0.4, "parameter": 0.2}.items():
        found = np.mean([wrapper.level == level for wrapper in scaled])
        assert abs(found - p) < 4 * np.sqrt(p * (1 - p) / len(scaled))
    assert {(w.low, w.high) for w in scaled} == {(0.1, 10), (0.01, 100), (0.001, 1000)}
    assert {w.pairs for w in by_keyword["es_gradient"]} == {1, 2, 4, 8, 16}
    assert all(0.001 <= w.std <= 0.1 for w in by_keyword["es_gradient"])
    assert all(0.01 <= w.fraction <= 1 for w in by_keyword["reduced_batch"])
    directions = [w.directions for w in by_keyword["subspace_gradient"]]
    assert min(directions) < 4 and 256 < max(directions) <= 1024
    assert {w.sign for w in by_keyword["subspace_gradient"]} == {False, True}


def test_a_task_without_a_batch_is_given_no_smaller_one():
    task = tasksets.get(BOWL)
    certain = wrappers.Chances(*[1.0] * 7)
    sampled = wrappers.sample(task, 0, certain)
    assert [w.keyword for w in wrappers.draw(tasksets.get(SMALL), 0, certain)] == list(
        dataclasses.asdict(certain)
    )
    assert "reduced_batch" not in sampled.name and "bf16" in sampled.name
    again = _get(sampled.name)
    assert again.problem == sampled.problem and again.name == sampled.name
    assert wrappers.sample(task, 0, wrappers.Chances(*[0.0] * 7)) is task


def test_a_task_whose_batch_is_no_list_of_examples_is_given_no_smaller_one():
    task = tasksets.get(small_variants.small("lopt_pes", 1))
    with pytest.raises(ValueError, match="cannot reduce the batch"):
        wrappers.ReducedBatch(0.5)(task)
    drawn = wrappers.draw(task, 0, wrappers.Chances(reduced_batch=1.0))
    assert "reduced_batch" not in {wrapper.keyword for wrapper in drawn}


@pytest.mark.parametrize("core", ["LSTM", "GRU", "VRNN"])
def test_bf16_takes_one_hot_inputs_and_a_start_that_is_trained(core):
    fields = "trainable_state=true&batch_size=4&core_size=5"
    task = tasksets.get(f"Copy_{core}128_BS128_Length20_Tokens10?{fields}")
    params, batch = task.init(KEY), task.batch("train", KEY)
    loss = wrappers.Bf16()(task).loss(params, batch, KEY)
    np.testing.assert_allclose(loss, task.loss(params, batch, KEY), rtol=0.05)


def test_chance_is_the_same_whatever_wraps_the_task():
    # A wrapper hands the loss's key on untouched, so the noise within stays the same.
    task, wrapped = tasksets.get(NOISY_BOWL), _get(NOISY_BOWL + SUFFIXES["noise"] * 3)
    params = task.init(KEY)
    assert wrapped.loss(params, (), KEY) == task.loss(params, (), KEY)


# Problems made for a test


class _Losses(NamedTuple):
    initial_loss: Any = jnp.float32(1.0)
    best_loss: Any = jnp.float32(0.0)


_LOSSES = _Losses()


def _no_numbers():
    return _LOSSES


class _SlopeNumbers(NamedTuple):
    a: Any
    b: Any
    initial_loss: Any = jnp.float32(1.0)
    best_loss: Any = jnp.float32(0.0)


@dataclasses.dataclass(frozen=True)
class _Slope(Problem):
    """loss = <a, params a> + b * params b: the gradient is (a, b)."""

    def init(self, numbers, key):
        return {"a": jnp.zeros(2), "b": jnp.zeros(())}

    def take(self, numbers, data, split, drawn):
        return ()

    def loss(self, numbers, params, batch, key):
        return jnp.sum(numbers.a * params["a"]) + numbers.b * params["b"]


def _slope(a, b) -> Task:
    return Task(_Slope(), _SlopeNumbers(jnp.array(a), jnp.float32(b)))


@dataclasses.dataclass(frozen=True)
class _Stairs(_Slope):
    """loss = floor(x)."""

    def loss(self, numbers, params, batch, key):
        return jnp.floor(params)


@dataclasses.dataclass(frozen=True)
class _Sum(_Slope):
    """loss = the largest of weights that all start at 1."""

    def init(self, numbers, key):
        return {"x": jnp.ones(1000)}

    def loss(self, numbers, params, batch, key):
        return jnp.max(params["x"])


@dataclasses.dataclass(frozen=True)
class _Batches(_Slope):
    """Batches of arrays of given shapes, where the test split may have fewer."""

    shapes: tuple[tuple[int, ...], ...] = ()
    test_size: int | None = None

    def take(self, numbers, data, split, drawn):
        if split == "test" and self.test_size is not None:
            return jnp.zeros(self.test_size)
        return [jnp.zeros(shape) for shape in self.shapes]
