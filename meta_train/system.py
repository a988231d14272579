"""The dynamical systems that estimators differentiate: s_t = f(s_{t-1}, x_t; theta).

Everything an estimator knows about a problem is here (Vicol, Metz & Sohl-Dickstein 2021,
arXiv 2112.13835, section 2): a way to start, a way to step, a loss per step. Training a
network with a learned optimizer is one such system, a recurrent network or a control
problem is another.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from learned_opt import network

State = Any  # a pytree of arrays
Theta = Any  # meta-parameters, a pytree of float32 arrays
Loss = Float[Array, ""]


@runtime_checkable
class System(Protocol):
    """One unrolled computation, written for a single lane; estimators vmap it.

    A system that is itself a pytree is passed to compiled code as an argument, so its
    arrays (data sets, matrices) are never baked into the program.
    """

    def init(self, key: PRNGKeyArray) -> State:
        """The state before the first step of an episode."""
        ...

    def step(self, theta: Theta, state: State, key: PRNGKeyArray) -> tuple[State, Loss]:
        """One inner step and its loss, a scalar; all randomness comes from ``key``."""
        ...


@runtime_checkable
class Episodic(System, Protocol):
    """A system whose start depends on theta or on how long the episode will be."""

    def begin(self, theta: Theta, state: State, num_steps: Float[Array, ""]) -> State:
        """Finish a state made by ``init``; called once, as the first window begins.

        Args:
          theta: the meta-parameters of the first window, perturbed where the estimator
            perturbs them, so that a learned initial state gets its gradient.
          state: from ``init``.
          num_steps: planned length of the episode in steps.
        """
        ...


@runtime_checkable
class Driven(System, Protocol):
    """A system that draws its inputs x_t for many steps at once.

    Random numbers are cheap in bulk and dear one step at a time, and antithetic
    particles share them. ``step(theta, state, key)`` must equal ``advance`` on the
    single input that ``inputs(state, key, 1)`` holds.
    """

    def inputs(self, state: State, key: PRNGKeyArray, num_steps: int) -> Any:
        """The inputs of the window that begins in ``state``: a pytree ``[steps, ...]``.

        They may depend only on what antithetic particles have in common.
        """
        ...

    def advance(self, theta: Theta, state: State, x: Any) -> tuple[State, Loss]:
        """One inner step with the input ``x`` of that step."""
        ...


@runtime_checkable
class Shifting(System, Protocol):
    """A system that may keep theta and a perturbation of it apart."""

    def shift(self, theta: Theta, offset: Theta, sign: Float[Array, ""]) -> Theta:
        """``theta + sign * offset``, as ``begin`` and the steps take it beside a theta.

        Leaves of ``offset`` may be `network.LowRank` matrices.
        """
        ...


class AroundSystem:
    """Base of frozen dataclasses whose first field is a system.

    They are pytrees: the arrays of the system are their leaves, and so are those of
    fields that are registered dataclasses themselves; all other fields are static. A
    system that is no pytree travels as a static part, hashed by identity.
    """

    def __init_subclass__(cls) -> None:
        def flatten(self: Any) -> tuple[Any, Any]:
            fields = [getattr(self, f.name) for f in dataclasses.fields(self)]
            is_leaf = [jax.tree_util.all_leaves([field]) for field in fields]
            opaque = is_leaf[0] and isinstance(fields[0], System)
            within = (
                not opaque,
                *(
                    dataclasses.is_dataclass(field) and not leaf
                    for field, leaf in zip(fields[1:], is_leaf[1:], strict=True)
                ),
            )
            children = [x for x, traced in zip(fields, within, strict=True) if traced]
            static = tuple(
                None if traced else x for x, traced in zip(fields, within, strict=True)
            )
            return children, (within, static)

        def unflatten(aux: Any, children: Any) -> Any:
            left = iter(children)
            fields = (
                next(left) if traced else x for traced, x in zip(*aux, strict=True)
            )
            return cls(*fields)  # type: ignore[call-arg]

        jax.tree_util.register_pytree_node(cls, flatten, unflatten)


def inputs(system: System, state: State, key: PRNGKeyArray, num_steps: int) -> Any:
    """What drives ``num_steps`` steps: the system's own inputs, otherwise keys."""
    if isinstance(system, Driven):
        return system.inputs(state, key, num_steps)
    return jax.random.split(key, num_steps)


def unroll(
    system: System, theta: Theta, state: State, xs: Any
) -> tuple[State, Float[Array, "steps"]]:
    """Run the system under ``inputs``; the final state and the loss of every step."""
    step = system.advance if isinstance(system, Driven) else system.step
    return jax.lax.scan(lambda s, x: step(theta, s, x), state, xs)


def begin(
    system: System, theta: Theta, state: State, num_steps: Float[Array, ""]
) -> State:
    """``system.begin`` where there is one, otherwise the state as it is."""
    return (
        system.begin(theta, state, num_steps) if isinstance(system, Episodic) else state
    )


def shift(system: System, theta: Theta, offset: Theta, sign: Float[Array, ""]) -> Theta:
    """``system.shift`` where there is one, otherwise the sum, leaf by leaf."""
    if isinstance(system, Shifting):
        return system.shift(theta, offset, sign)
    return network.shifted(theta, offset, sign)


def episode(
    system: System, theta: Theta, key: PRNGKeyArray, num_steps: int
) -> tuple[State, Float[Array, "steps"]]:
    """A whole episode under one theta; the final state and the loss of every step."""
    init_key, input_key = jax.random.split(key)
    state = system.init(init_key)
    state = begin(system, theta, state, jnp.float32(num_steps))
    return unroll(system, theta, state, inputs(system, state, input_key, num_steps))


def choose(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    """``new`` if the condition holds and otherwise ``old``, leaf by leaf."""

    def leaf(new: Array, old: Array) -> Array:
        # Not jnp.where: a state may hold random keys, which cannot be cast or promoted.
        new = new if new.dtype == old.dtype else new.astype(old.dtype)
        return jax.lax.select_n(jnp.broadcast_to(condition, old.shape), old, new)

    return jax.tree.map(leaf, new, old)
