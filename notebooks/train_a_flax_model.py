# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Train a flax model with a pretrained learned optimizer
#
# The optimizer was meta-trained on small problems; nothing about it is tuned here. It is
# an optax transform, so it goes wherever optax goes. It wants to know how many updates
# the run will have, as a learning-rate schedule would.

# %%
import jax
import optax
from flax import nnx
from sklearn.datasets import load_digits

import pretrained

images, labels = load_digits(return_X_y=True)
images = images / 16.0
train, test = slice(0, 1500), slice(1500, None)

# %%
model = nnx.Sequential(
    nnx.Linear(64, 128, rngs=nnx.Rngs(0)),
    nnx.relu,
    nnx.Linear(128, 10, rngs=nnx.Rngs(1)),
)
tx = pretrained.optimizer("scale_free", num_steps=300)
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit
def step(model, optimizer, x, y):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads, value=value)
    return value


# %%
for key in jax.random.split(jax.random.key(0), 300):
    batch = jax.random.randint(key, (64,), 0, 1500)
    loss = step(model, optimizer, images[batch], labels[batch])

accuracy = float((model(images[test]).argmax(-1) == labels[test]).mean())
print(f"training loss {float(loss):.4f}, test accuracy {accuracy:.3f}")
