"""What one training step costs with each optimizer, relative to optax.adam.

    python -m benchmarks optimizer_step

One step (batch, gradient, update) of an MLP with two hidden layers of 128 on 3,072 inputs,
10 classes, batch 128: 411,146 parameters. Medians over interleaved rounds in one process,
since machines are noisy; also compile seconds and the size of the state.
"""

import statistics
import time

ROUNDS = 15


def main() -> None:
    """Time every registered optimizer and optax.adam; print the table."""
    import jax
    import jax.numpy as jnp
    import optax
    from rich.console import Console
    from rich.table import Table

    import learned_opt

    sizes = (3072, 128, 128, 10)
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        f"layer_{i}": {
            "w": jax.random.normal(key, (m, n)) / m**0.5,
            "b": jnp.zeros(n),
        }
        for i, (key, m, n) in enumerate(zip(keys, sizes[:-1], sizes[1:], strict=False))
    }
    x = jax.random.normal(keys[3], (128, sizes[0]))
    y = jax.random.randint(keys[4], (128,), 0, 10)

    def loss(params: dict) -> jax.Array:
        h = x
        for i in range(3):
            layer = params[f"layer_{i}"]
            h = h @ layer["w"] + layer["b"]
            h = jax.nn.relu(h) if i < 2 else h
        return optax.softmax_cross_entropy_with_integer_labels(h, y).mean()

    def compiled(tx: optax.GradientTransformationExtraArgs):
        def step(params, state):
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params, value=value)
            return optax.apply_updates(params, updates), state

        state = jax.jit(tx.init)(params)
        began = time.perf_counter()
        program = jax.jit(step).lower(params, state).compile()
        return program, state, time.perf_counter() - began

    transforms = {"optax.adam": optax.with_extra_args_support(optax.adam(1e-3))}
    for name in learned_opt.names():
        optimizer = learned_opt.get(name)()
        theta = optimizer.init(jax.random.key(0))
        transforms[name] = optimizer.transform(theta, num_steps=1000)
    programs = {name: compiled(tx) for name, tx in transforms.items()}

    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, (program, state, _) in programs.items():
            jax.block_until_ready(program(params, state))
            began = time.perf_counter()
            jax.block_until_ready(program(params, state))
            times[name].append(time.perf_counter() - began)

    table = Table(title="one training step, 411k parameters")
    for column in ("optimizer", "ms", "times adam", "compile s", "state MB"):
        table.add_column(column, justify="right")
    adam = statistics.median(times["optax.adam"])
    for name, (_, state, seconds) in programs.items():
        median = statistics.median(times[name])
        megabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
        table.add_row(
            name,
            f"{1e3 * median:.2f}",
            f"{median / adam:.1f}",
            f"{seconds:.1f}",
            f"{megabytes:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
