"""The one contract of this package: an optimizer is a function from theta to optax.

`LearnedOptimizer` is the protocol everything else is written against. `Rule` is how
the optimizers here implement it: an update written once against a `Layout`, from which
the base class makes the public per-tensor transform. Meta-training runs the very same
rule on the flat layout.
"""

import abc
import contextlib
import functools
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from learned_opt import checks, network
from learned_opt.checks import MadeFor
from learned_opt.layout import Field, Flat, Layout, PerTensor

Theta = Any  # meta-parameters: a pytree of float32 arrays


@runtime_checkable
class LearnedOptimizer(Protocol):
    """A function from meta-parameters ``theta`` to an optax transform."""

    def init(self, key: PRNGKeyArray) -> Theta:
        """Fresh meta-parameters, a pytree of float32."""
        ...

    def transform(
        self, theta: Theta, *, num_steps: ArrayLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """The optax transform that ``theta`` describes, for a run of ``num_steps``."""
        ...


class Signals(NamedTuple):
    """What a rule may know beside gradients and parameters; None if not given."""

    value: Float[Array, ""] | None = None  # training loss at the current parameters
    valid_value: Float[Array, ""] | None = None  # validation loss, when one was taken
    num_steps: Float[Array, ""] | None = None  # length of the whole run, in updates


@runtime_checkable
class RuleState(Protocol):
    """What the state of every rule has in common."""

    @property
    def step(self) -> Int[Array, ""]:
        """Updates made so far."""
        ...

    @property
    def slots(self) -> tuple[Any, ...]:
        """The accumulators that are fields, perhaps in nested tuples."""
        ...


class TransformState(NamedTuple):
    """State of the public transform of a `Rule`."""

    rule: Any  # the rule's own: a NamedTuple of float32 and int32 arrays
    made_for: MadeFor  # no array: what the parameters were at `init`


class Rule(abc.ABC):
    """An update rule written once, for any layout.

    A final class gives ``init``, ``start`` and ``advance``. Its state is a NamedTuple
    of arrays with at least the fields of `RuleState`. All fields it sees are float32;
    parameters may have any floating dtype.

    Attributes:
      numbers_held: for each parameter while a step is computed, about; tells how many
        lanes of meta-training fit a cache, and nothing else.
    """

    numbers_held: ClassVar[int] = 8

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray) -> Theta:
        """Fresh meta-parameters."""

    @abc.abstractmethod
    def start(self, theta: Theta, params: Field, layout: Layout) -> Any:
        """The rule's state before the first step."""

    @abc.abstractmethod
    def advance(
        self,
        theta: Theta,
        state: Any,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, Any]:
        """One step: what to *add* to the parameters, and the next state."""

    def shift(self, theta: Theta, offset: Theta, sign: Float[Array, ""]) -> Theta:
        """``theta + sign * offset``, as ``start`` and ``advance`` of this rule take it.

        Matrices larger than the caches may stay apart as `network.Shifted`, for layers
        that are computed by `network.matmul`.
        """
        return network.shifted(theta, offset, sign)

    def transform(
        self,
        theta: Theta,
        *,
        num_steps: ArrayLike | None = None,
        layout: type[PerTensor] | type[Flat] | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """The optax transform of this rule with meta-parameters ``theta``.

        Args:
          theta: meta-parameters, as made by ``init``.
          num_steps: length of the whole run in updates, > 0; rules with a notion of
            progress need it, the others ignore it.
          layout: `PerTensor` unless given. `Flat` compiles and runs faster for small
            models on one device; it gathers sharded parameters. `Kernels` is for one
            NVIDIA GPU.

        Returns:
          A transform whose ``update(grads, state, params, *, value, valid_value)``
          takes the training loss as ``value`` and, on steps where one was computed,
          the validation loss as ``valid_value`` (inside a compiled loop, NaN on the
          other steps); rules without loss features ignore both.

        Raises:
          TypeError: ``layout`` is not a layout, ``num_steps`` not a number.
          ValueError: ``theta`` is not of this optimizer; ``num_steps`` is not positive.
            From ``init``: a leaf is not an array of real floating-point
            numbers. From ``update``: ``params`` is missing; a signal the rule needs is
            missing; a loss is not a scalar; the number, a shape or a dtype of the
            parameters is not that of ``init``. (A rule without slots does not know
            shapes in `PerTensor`.)
        """
        expected = jax.eval_shape(lambda: self.init(jax.random.key(0)))
        checks.require_theta(theta, expected, type(self).__name__)
        theta = float32(theta)
        if num_steps is not None:
            checks.require_number("num_steps", num_steps, "(0, inf)")
        horizon = _scalar(num_steps, "num_steps")
        # None, as `optax.inject_hyperparams` takes a callable default for a schedule.
        layout = PerTensor if layout is None else layout
        if not (isinstance(layout, type) and issubclass(layout, Layout)):
            raise TypeError(
                "`layout` is learned_opt.PerTensor, learned_opt.Flat or "
                f"learned_opt.Kernels, a class, not {layout!r}."
            )

        slots_of_scalar = functools.cache(lambda: self._slots_of_scalar(theta))

        def init_fn(params: optax.Params) -> TransformState:
            checks.require_trainable(params)
            if is_abstract(params):
                return jax.eval_shape(init_fn, params)
            view = layout(params)
            fields = view.ravel(float32(params))
            with _float32_by_default():
                rule_state = self.start(theta, fields, view)
            if not isinstance(rule_state, RuleState):
                raise TypeError(
                    f"{type(self).__name__}.start gives a {type(rule_state).__name__}: the "
                    "state of a rule is a NamedTuple with `step` and `slots` at least."
                )
            rule_state = _with_own_buffers(rule_state, (theta, params))
            return TransformState(rule_state, MadeFor.of(params))

        def update_fn(
            updates: optax.Updates,
            state: TransformState,
            params: optax.Params | None = None,
            *,
            value: ArrayLike | None = None,
            valid_value: ArrayLike | None = None,
            **extra: Any,
        ) -> tuple[optax.Updates, TransformState]:
            del extra
            if params is None:
                raise ValueError(checks.NO_PARAMS)
            if not isinstance(state, TransformState):
                raise ValueError(
                    "this is the state of another optimizer: `init` of this one makes a "
                    f"TransformState, not a {type(state).__name__}."
                )
            checks.require_gradients(updates, params)
            if layout is not PerTensor:  # a vector of the same length may be others
                state.made_for.require_shapes(params)
            view = layout(params)
            grads, fields = (view.ravel(float32(x)) for x in (updates, params))
            checks.require_slots(state.rule.slots, slots_of_scalar(), fields)
            state.made_for.require_dtypes(params)
            if not jax.tree.leaves(params):  # an empty group of `optax.partition`
                return updates, state
            signals = Signals(
                _scalar(value, "value"), _scalar(valid_value, "valid_value"), horizon
            )
            with _float32_by_default():
                steps, rule_state = self.advance(
                    theta, state.rule, grads, fields, view, signals
                )
            cast = lambda step, p: step.astype(jnp.result_type(p))
            steps = jax.tree.map(cast, view.unravel(steps), params)
            return steps, TransformState(rule_state, state.made_for)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)  # type: ignore[arg-type]

    def _slots_of_scalar(self, theta: Theta) -> Any:
        """What `checks.require_slots` compares with; nothing is computed."""

        def start(scalar: Array) -> Any:
            return self.start(theta, scalar, PerTensor(scalar)).slots

        with _float32_by_default():
            return jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.float32))


def missing(rule: Rule, what: str, fix: str) -> ValueError:
    """The error a rule raises when it lacks a signal that it needs."""
    return ValueError(f"{type(rule).__name__} needs {what}: {fix}")


def require_num_steps(rule: Rule, signals: Signals) -> Float[Array, ""]:
    """The horizon, or the error that says how to give it."""
    if signals.num_steps is None:
        raise missing(
            rule,
            "the length of the run",
            "make the transform with `optimizer.transform(theta, num_steps=...)` or "
            "`pretrained.optimizer(name, num_steps=...)`.",
        )
    return signals.num_steps


def require_value(rule: Rule, signals: Signals) -> Float[Array, ""]:
    """The training loss, or the error that says how to give it."""
    if signals.value is None:
        raise missing(
            rule,
            "the training loss",
            "call `tx.update(grads, state, params, value=loss)`. Flax's `nnx.Optimizer` "
            "passes `value` on; `TrainState.apply_gradients` and `optax.lookahead` do "
            "not.",
        )
    return signals.value


def float32(tree: Any) -> Any:
    """Every leaf as a float32 array, of a python number too."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def _scalar(x: ArrayLike | None, name: str) -> Float[Array, ""] | None:
    if x is None:
        return None
    if jnp.ndim(x) != 0:
        raise ValueError(f"`{name}` must be one number, not of shape {jnp.shape(x)}.")
    return jnp.asarray(x, jnp.float32)


def _float32_by_default() -> contextlib.AbstractContextManager[Any]:
    """Rules compute in float32, also where new arrays are float64 by default."""
    if jax.config.read("jax_enable_x64"):
        return jax.enable_x64(False)
    return contextlib.nullcontext()


def _with_own_buffers(state: Any, others: Any) -> Any:
    """A state that can be donated: no array is in it twice, or anyone else's."""
    seen = {id(x) for x in jax.tree.leaves(others)}

    def own(x: Array) -> Array:
        if id(x) in seen:
            return jnp.copy(x)
        seen.add(id(x))
        return x

    return jax.tree.map(own, state)


def is_abstract(params: Any) -> bool:
    """Whether a leaf is a shape without numbers."""
    leaves = jax.tree.leaves(params)
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
