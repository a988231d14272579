"""Train three unlike models with every pretrained optimizer, and nothing to tune.

    python examples/train_anything.py --steps 500

A transformer of flax on text, a conv net on images, and an MLP whose parameters and
computations are bfloat16. No line knows which model or which optimizer it has; Adam at
its usual rate is there to compare with. Prints the training loss at the start, and its
mean over the last tenth of the run.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import tyro

import pretrained
import tasksets

MODELS = {
    "flax transformer, text": (
        "transformer_lm/seed0@python_docs?patch_length=64&batch_size=16&layers=2"
        "&heads=4&head_width=16&init_scale=1&reparam_scale=1&label_smoothing=0",
        jnp.float32,
    ),
    "conv net, images": (
        "conv_fc_family/seed0@digits?channels=16-32&strides=2-2&padding=SAME"
        "&hidden=64&activation=relu&batch_size=64",
        jnp.float32,
    ),
    "bfloat16 MLP, images": (
        "small_mlp/seed0@digits?hidden=128-128&init_scale=1&reparam_scale=1"
        "&label_noise=0&train_fraction=1+bf16",
        jnp.bfloat16,
    ),
}


@functools.partial(jax.jit, static_argnames=("tx", "steps", "dtype"))
def train(task, tx, steps, dtype):
    """The training losses of a run, ``[steps]``."""
    init_key, run_key = jax.random.split(jax.random.key(0))
    params = optax.tree.cast(task.init(init_key), dtype)

    def step(carry, key):
        params, state = carry
        batch = task.batch("train", key)
        loss, grads = jax.value_and_grad(task.loss)(params, batch, key)
        updates, state = tx.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    keys = jax.random.split(run_key, steps)
    return jax.lax.scan(step, (params, tx.init(params)), keys)[1]


def main(steps: int = 500) -> None:
    """Train every model with every optimizer for a number of steps."""
    shipped = pretrained.available()
    optimizers = {n: pretrained.optimizer(n, num_steps=steps) for n in shipped}
    for model, (name, dtype) in MODELS.items():
        for label, tx in (optimizers | {"adam 1e-3": optax.adam(1e-3)}).items():
            losses = train(tasksets.get(name), tx, steps, dtype)
            last = losses[-max(steps // 10, 1) :].mean()
            print(f"{model:24} {label:16} {losses[0]:.3f} -> {last:.3f}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
