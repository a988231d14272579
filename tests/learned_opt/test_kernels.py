"""Networks as GPU kernels give what the plain layout gives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import learned_opt
from learned_opt import Kernels, PerTensor, kernels, network
from learned_opt.kernel_layout import Entry

KEY = jax.random.key(0)
# On the way to CUDA jax 0.11.2 and later warn of the end of this kind of kernel.
pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend")


class Interpreted(Kernels):
    """The kernels, on any platform."""

    _interpret = True


@pytest.fixture
def params():
    shapes = {"w": (40, 30), "conv": (3, 3, 4, 24), "b": (30,), "s": (), "none": (0, 3)}
    shapes |= {"row": (1, 600), "tall": (700, 1), "stack": (5, 4, 1)}
    return {k: jax.random.normal(KEY, shape) for k, shape in shapes.items()}


@pytest.fixture
def run(case, params):
    """Three plain updates; then what the next one gives in a layout."""

    def transform(layout):
        return case.optimizer.transform(case.theta, num_steps=50, layout=layout)

    def grads(t):
        return jax.tree.map(lambda p: jnp.sin(3 * p + t), params)

    state = transform(PerTensor).init(params)
    update = jax.jit(transform(PerTensor).update)
    for t in range(3):
        _, state = update(grads(t), state, params, value=1.0)

    def once(layout):
        return jax.jit(transform(layout).update)(grads(3), state, params, value=1.0)

    return once


def require_close(expected, made):
    """Equal to a few millionths of the largest number of each array."""

    def compare(x, y):
        scale = np.max(np.abs(x), initial=1e-12)
        np.testing.assert_allclose(y / scale, x / scale, rtol=0, atol=3e-6)

    jax.tree.map(compare, expected, made)


def test_an_update_of_kernels_is_the_plain_one_to_millionths(case, run):
    plain = run(PerTensor)
    require_close(plain, run(Interpreted))
    require_close(plain, run(Kernels))  # on a CPU it is the plain layout


@pytest.mark.parametrize(
    "name, per_tensor",
    [
        ("scale_free", 2),
        ("adafactor_mlp", 2),
        ("star", 2),
        ("celo", 2),
        ("hyper_v2", 4),
    ],
)
def test_for_cuda_there_are_so_many_kernels_for_each_tensor(name, per_tensor):
    params = [jnp.ones((40, 30)), jnp.ones((40, 30)), jnp.ones(7)]
    optimizer = learned_opt.get(name)()
    theta = jax.jit(optimizer.init)(KEY)
    tx = optimizer.transform(theta, num_steps=50, layout=Kernels)
    state = tx.init(params)

    def update(grads, state, params):
        return tx.update(grads, state, params, value=jnp.float32(1.0))

    target = "__gpu$xla.gpu.triton"
    allowed = [jax.export.DisabledSafetyCheck.custom_call(target)]
    export = jax.export.export(
        jax.jit(update), platforms=["cuda"], disabled_checks=allowed
    )
    try:
        program = export(params, state, params).mlir_module()
    except RuntimeError as e:  # jax 0.12 asks the device
        if "No supported GPU" not in str(e):
            raise
        pytest.skip("this jax makes CUDA programs on machines with a GPU only")
    # Tensors of a shape share a kernel: two shapes; calls are counted where made.
    assert program.count(f"@{target}") == 2 * per_tensor


SHAPES = st.lists(st.sampled_from([1, 2, 3, 7, 40]), max_size=4).map(tuple)


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, data=st.data())
def test_any_array_of_a_tensor_is_found_at_its_elements(shape, data):
    own = tuple(data.draw(st.sampled_from([n, 1])) for n in shape)
    lead = data.draw(st.sampled_from([(), (2,), (2, 3)]))
    x = jax.random.normal(KEY, shape)
    other = jax.random.normal(KEY, (*lead, *own))
    last = lambda y: y[-1] if isinstance(y, tuple) else y

    def f(x, y):
        y = last(last(y))
        return [x * y, x], [x + y, jnp.ones_like(x)]

    made, sums = kernels.prepare(f, shape, x, other, interpret=True)(x, other)
    y = other.reshape(-1, *own)[-1]
    np.testing.assert_allclose(made[0], x * y, rtol=1e-6)
    np.testing.assert_array_equal(made[1], x)
    np.testing.assert_allclose(sums[0], jnp.sum(x + y), rtol=1e-4, atol=1e-4)
    assert sums[1] == x.size  # not the rest of the last block


def test_nan_is_kept_where_triton_would_drop_it():
    x = jnp.array([jnp.nan, -2.0, 0.5, 9.0])
    weights = jnp.array([1.0, jnp.nan])

    def f(x):
        of_nan = [jnp.maximum(x, weights[1]), jnp.minimum(weights[1], x)]
        return [jax.nn.relu(x), jnp.clip(x, -1.0, weights[0]), *of_nan], []

    run = kernels.prepare(f, x.shape, x, interpret=True)
    relu, clipped, *of_nan = run(x)[0]
    np.testing.assert_array_equal(relu, [np.nan, 0, 0.5, 9])
    np.testing.assert_array_equal(clipped, [np.nan, -1, 0.5, 1])
    assert np.all(np.isnan(of_nan))
    program = str(jax.make_jaxpr(run)(x))
    assert " max " not in program and " min " not in program


def test_a_tensors_number_is_read_by_its_index():
    x, values = jnp.ones((30, 40)), jnp.arange(6.0).reshape(2, 3)
    f = lambda x, y: (x * y[0] + 10 * y[1], [])
    entries = [Entry(values, jnp.array([i])) for i in range(3)]
    run = kernels.prepare(f, x.shape, x, entries[0], interpret=True)
    for i, entry in enumerate(entries):
        np.testing.assert_array_equal(run(x, entry)[0], x * (i + 10 * (3 + i)))
        np.testing.assert_array_equal(
            entry.take(x.shape), values[:, i].reshape(2, 1, 1)
        )


def test_a_network_is_closed_over_as_its_numbers():
    layers = network.mlp(KEY, (2, 5, 3))
    xs = jax.random.normal(KEY, (2, 700))

    @jax.jit
    def both(layers, *xs):
        f = lambda *xs: (network.unrolled(layers, xs), [])
        return f(*xs)[0], kernels.prepare(f, (700,), *xs, interpret=True)(*xs)[0]

    plain, made = both(layers, *xs)
    np.testing.assert_allclose(made, plain, rtol=1e-5, atol=1e-6)


def test_a_number_that_is_closed_over_may_be_repeated():
    weights, x = jnp.arange(1.0, 5.0), jax.random.normal(KEY, (600,))
    product = lambda: weights[2] * weights[3]
    f = lambda x: (jnp.where(x > 0, jnp.broadcast_to(product(), x.shape), x), [])
    made, _ = kernels.prepare(f, x.shape, x, interpret=True)(x)
    np.testing.assert_array_equal(made, jnp.where(x > 0, 12.0, x))


def test_to_read_an_array_as_a_whole_is_an_error():
    weights, x = jnp.ones((4, 4)), jnp.ones(8)
    f = lambda x: (x * jnp.sum(weights * x[0]), [])
    with pytest.raises(ValueError, match="as a whole"):
        kernels.prepare(f, x.shape, x, interpret=True)


def test_what_is_replaced_may_still_be_read():
    x, average = jnp.ones(600), jnp.zeros(600)
    f = lambda x, a: ([x, a + x], [])
    run = jax.jit(kernels.prepare(f, (600,), x, average, replaced=1, interpret=True))
    made = run(x, average)[0]
    np.testing.assert_array_equal(made[1], jnp.ones(600))
    np.testing.assert_array_equal(average, jnp.zeros(600))
    # Inputs: the tensor's index, numbers, x, average.
    assert "input_output_aliases=((3, 1),)" in str(jax.make_jaxpr(run)(x, average))


def test_a_kernel_works_under_vmap_and_in_a_chain():
    optimizer = learned_opt.ScaleFree()
    theta = optimizer.init(KEY)
    params = jax.random.normal(KEY, (3, 20, 30))

    def step(layout, p):
        rule = optimizer.transform(theta, num_steps=9, layout=layout)
        tx = optax.chain(optax.clip_by_global_norm(1.0), rule)
        return tx.update(jnp.sin(p), tx.init(p), p)[0]

    plain, made = (
        jax.vmap(lambda p, of=of: step(of, p))(params)
        for of in (PerTensor, Interpreted)
    )
    np.testing.assert_allclose(made, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "params", [jnp.ones(3), (jnp.ones(3), jnp.ones(2)), [jnp.ones(2)] * 2]
)
@pytest.mark.parametrize("layout", [PerTensor, learned_opt.Flat, Interpreted])
def test_means_are_of_fields_whatever_the_parameters_are_in(layout, params):
    view = layout(params)
    field = view.ravel(params)
    f = lambda x, a: ([a + x], [x, 2 * x])
    made, means = view.map_and_mean(f, field, state=[field])
    jax.tree.map(
        np.testing.assert_array_equal,
        view.tensors(made[0]),
        [2 * x for x in jax.tree.leaves(params)],
    )
    np.testing.assert_allclose(jnp.stack(means)[:, 0], [1, 2])


def test_inside_shard_map_and_outside_of_jit_it_is_the_plain_layout():
    optimizer = learned_opt.ScaleFree()
    theta = optimizer.init(KEY)
    params = jax.random.normal(KEY, (jax.device_count(), 5, 4))

    def step(layout, p):
        tx = optimizer.transform(theta, num_steps=9, layout=layout)
        return tx.update(jnp.sin(p), tx.init(p), p)[0]

    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=auto)
    spec = jax.P("d")
    spread = [
        jax.jit(
            jax.shard_map(
                lambda p, of=of: step(of, p), mesh=mesh, in_specs=spec, out_specs=spec
            )
        )(params)
        for of in (PerTensor, Kernels)
    ]
    np.testing.assert_allclose(*spread, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(step(Kernels, params), step(PerTensor, params))


def test_entries_are_arrays_for_every_operation_of_the_layout():
    params = [jnp.ones((3, 4)), jnp.ones(2)]
    view = Interpreted(params)
    field = view.spread(jnp.array([2.0, 5.0]))
    assert [x.shape for x in view.tensors(field)] == [(1, 1), (1,)]
    made = view.map(jnp.multiply, field, params)
    jax.tree.map(np.testing.assert_array_equal, made, [2 * params[0], 5 * params[1]])
