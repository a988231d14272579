"""The one contract of this package: an optimizer is a function from theta to optax.

`LearnedOptimizer` is the protocol everything else is written against. `Rule` is how
the optimizers here implement it: an update written once against a `Layout`, from which
the base class makes the public per-tensor transform. Meta-training runs the very same
rule on the flat layout.
"""

import abc
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

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
    made_for: "_Dtypes"  # no array: what the parameters were at `init`


class Rule(abc.ABC):
    """An update rule written once, for any layout.

    A final class gives ``init``, ``start`` and ``advance``. Its state is a NamedTuple
    of arrays with at least the fields of `RuleState`. All fields it sees are float32;
    parameters may have any floating dtype.
    """

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

    def transform(
        self,
        theta: Theta,
        *,
        num_steps: ArrayLike | None = None,
        layout: type[PerTensor] | type[Flat] = PerTensor,
    ) -> optax.GradientTransformationExtraArgs:
        """The optax transform of this rule with meta-parameters ``theta``.

        Args:
          theta: meta-parameters, as made by ``init``.
          num_steps: length of the whole run in updates, > 0; rules with a notion of
            progress need it, the others ignore it.
          layout: `Flat` compiles and runs faster for small models on one device; it
            gathers sharded parameters and needs concrete ones at ``init``.

        Returns:
          A transform whose ``update(grads, state, params, *, value, valid_value)``
          takes the training loss as ``value`` and, on steps where one was computed,
          the validation loss as ``valid_value`` (inside a compiled loop, NaN on the
          other steps); rules without loss features ignore both.

        Raises (from ``update``):
          ValueError: ``params`` is missing; a signal the rule needs is missing; a leaf
            changed its shape or dtype since ``init``.
        """
        horizon = None if num_steps is None else jnp.asarray(num_steps, jnp.float32)

        def init_fn(params: optax.Params) -> TransformState:
            view = layout(params)
            rule_state = self.start(theta, view.ravel(_float32(params)), view)
            return TransformState(rule_state, _Dtypes.of(params))

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
                raise ValueError(_NO_PARAMS)
            _check_structure(updates, params)
            if layout is PerTensor:
                _check_slots(state.rule, params)
            state.made_for.check(params)
            if not jax.tree.leaves(params):  # an empty group of `optax.partition`
                return updates, state
            view = layout(params)
            steps, rule_state = self.advance(
                theta,
                state.rule,
                view.ravel(_float32(updates)),
                view.ravel(_float32(params)),
                view,
                Signals(_scalar(value), _scalar(valid_value), horizon),
            )
            steps = view.unravel(steps)
            steps = jax.tree.map(lambda u, p: u.astype(p.dtype), steps, params)
            return steps, TransformState(rule_state, state.made_for)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)  # type: ignore[arg-type]


def missing(rule: Rule, what: str, fix: str) -> ValueError:
    """The error a rule raises when it lacks a signal that it needs."""
    return ValueError(f"{type(rule).__name__} needs {what}: {fix}")


def require_num_steps(rule: Rule, signals: Signals) -> Float[Array, ""]:
    """The horizon, or the error that says how to give it."""
    if signals.num_steps is None:
        raise missing(
            rule,
            "the length of the run",
            "make the transform with `optimizer.transform(theta, num_steps=...)`.",
        )
    return signals.num_steps


def require_value(rule: Rule, signals: Signals) -> Float[Array, ""]:
    """The training loss, or the error that says how to give it."""
    if signals.value is None:
        raise missing(
            rule,
            "the training loss",
            "call `tx.update(grads, state, params, value=loss)`.",
        )
    return signals.value


# optax keeps this sentence private; users should meet the same one everywhere.
_NO_PARAMS = (
    "You are using a transformation that requires the current value of parameters, "
    "but you are not passing `params` when calling `update`."
)


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def _scalar(x: ArrayLike | None) -> Float[Array, ""] | None:
    return None if x is None else jnp.asarray(x, jnp.float32)


@jax.tree_util.register_static
class _Dtypes:
    """The parameters' dtypes at `init`, kept beside the arrays of the state.

    All instances compare equal: the dtypes are there for an error message, and must not
    make two states differ in structure (optax builds states of placeholders).
    """

    def __init__(self, dtypes: tuple[str | None, ...]):
        self._dtypes = dtypes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Dtypes)

    def __hash__(self) -> int:
        return hash(_Dtypes)

    def __repr__(self) -> str:
        return f"_Dtypes{self._dtypes}"

    @classmethod
    def of(cls, params: Any) -> "_Dtypes":
        return cls(tuple(_dtype(leaf) for leaf in jax.tree.leaves(params)))

    def check(self, params: Any) -> None:
        named = jax.tree_util.tree_leaves_with_path(params)
        if len(named) != len(self._dtypes):
            raise ValueError(
                f"the parameters have {len(named)} tensors, but the optimizer state was "
                f"made for {len(self._dtypes)}; call `init` again with these parameters."
            )
        for (path, leaf), before in zip(named, self._dtypes, strict=True):
            now = _dtype(leaf)
            if None not in (before, now) and before != now:
                raise ValueError(
                    f"parameter {_name(path)} was {before} at `init` and is {now} now; "
                    "call `init` again after a cast."
                )


def _dtype(leaf: Any) -> str | None:
    """Name of an array's dtype; None for what is no array."""
    return str(leaf.dtype) if hasattr(leaf, "dtype") else None


def _check_structure(updates: Any, params: Any) -> None:
    structure = jax.tree.structure(params)
    if jax.tree.structure(updates) != structure:
        raise ValueError(
            "gradients and parameters differ in structure:\n"
            f"  gradients:  {jax.tree.structure(updates)}\n"
            f"  parameters: {structure}"
        )
    shapes = [jnp.shape(x) for x in jax.tree.leaves(updates)]
    _check_shapes(shapes, params, "its gradient has")


def _check_slots(state: RuleState, params: Any) -> None:
    structure = jax.tree.structure(params)
    is_field = lambda x: jax.tree.structure(x) == structure
    for slot in jax.tree.leaves(state.slots, is_leaf=is_field):
        if not is_field(slot):
            raise ValueError(
                "the optimizer state was made for parameters of another structure than"
                f"\n  {structure}\ncall `init` again with these parameters."
            )
        shapes = [jnp.shape(x) for x in jax.tree.leaves(slot)]
        ranks = [jnp.ndim(p) for p in jax.tree.leaves(params)]
        pairs = zip(shapes, ranks, strict=True)
        lead = min((len(shape) - rank for shape, rank in pairs), default=0)
        own = [shape[max(lead, 0) :] for shape in shapes]  # a field may have more axes
        _check_shapes(own, params, "the optimizer state, made at `init`, holds")


def _check_shapes(shapes: list[tuple[int, ...]], params: Any, what: str) -> None:
    named = jax.tree_util.tree_leaves_with_path(params)
    for (path, p), shape in zip(named, shapes, strict=True):
        if shape != jnp.shape(p):
            raise ValueError(
                f"parameter {_name(path)} has shape {jnp.shape(p)} but {what} {shape}."
            )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path) or "(the only tensor)"
