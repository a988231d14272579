"""Training a model with a learned optimizer, as a `System` that estimators can unroll.

The state is everything one inner run carries: which task it is, the model's parameters,
the optimizer's state. One step draws a batch, takes a gradient, lets the optimizer move
the parameters, and reports the *outer loss*: what theta is trained to make small.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

import tasksets
from learned_opt import Flat, LearnedOptimizer, Rule, Signals, network
from meta_train.system import Theta
from tasksets import Task
from tasksets.task import SplitName

_LEAST = -1.0  # outer loss


class InnerState(NamedTuple):
    """One inner run in progress.

    Attributes:
      lane: which task of a stack this episode trains.
      params: the model's parameters, ``[params]`` when flat.
      optimizer: the state of the optimizer.
      step: inner steps done.
      num_steps: planned length of the run.
    """

    lane: Int[Array, ""]
    params: Any
    optimizer: Any
    step: Int[Array, ""]
    num_steps: Float[Array, ""]


class Inputs(NamedTuple):
    """What one step draws: for each split which examples, and a key for the loss."""

    train: tuple[Any, PRNGKeyArray]
    inner_valid: tuple[Any, PRNGKeyArray]
    outer_valid: tuple[Any, PRNGKeyArray]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InnerTraining:
    """The system whose steps are training steps.

    With a stack of tasks every episode draws one of them uniformly. A `Rule` runs on the
    flat layout, any other `LearnedOptimizer` through its optax transform.

    Attributes:
      task: a `Task`, or a stack of tasks of equal structure (`tasksets.stack`).
      optimizer: the optimizer whose theta is trained.
      train_weight: weight in [0, 1] of the training loss (at the parameters before the
        step) in the outer loss; the rest goes to the loss on the outer validation split
        (after the step). The outer loss is 1 at the task's initial loss and 0 at its
        best known one, so that tasks of all kinds count alike. It is linear in between,
        also where `tasksets.Task.normalize` is logarithmic, and at least -1: where much
        less than the best known loss can be reached, that task would count more than all
        others.
      end_emphasis: how much more the end of an episode counts than its beginning, in
        [0, 1]: the weight of the outer loss rises linearly over the episode from 1 minus
        this to 1 plus this. Overfitting, which comes late, then costs more.
      valid_every: the optimizer is shown a validation loss every so many steps (Metz et
        al. 2020, arXiv 2009.11243, section 3: every 10).
    """

    task: Task
    optimizer: LearnedOptimizer = dataclasses.field(metadata={"static": True})
    train_weight: float = dataclasses.field(default=0.0, metadata={"static": True})
    end_emphasis: float = dataclasses.field(default=0.0, metadata={"static": True})
    valid_every: int = dataclasses.field(default=10, metadata={"static": True})

    @classmethod
    def over(
        cls, tasks: Sequence[Task], optimizer: LearnedOptimizer, **options: Any
    ) -> "InnerTraining":
        """Training on tasks of equal structure, one drawn per episode."""
        return cls(tasksets.stack(tasks), optimizer, **options)

    def init(self, key: PRNGKeyArray) -> InnerState:
        """A fresh model of a freshly drawn task.

        Raises:
          ValueError: new arrays are float64; rules compute in float32.
        """
        if jax.config.read("jax_enable_x64"):
            raise ValueError(
                "training on a task is in float32: leave jax_enable_x64 off "
                "(JAX_ENABLE_X64 in the environment)."
            )
        lane_key, init_key = jax.random.split(key)
        lane = jnp.zeros((), jnp.int32)
        if self.task.stacked:
            lane = jax.random.randint(lane_key, (), 0, self.task.num_lanes)
        params = self._ravel(self._lane(lane).init(init_key))
        # The real optimizer state needs theta and is made by `begin`.
        empty = jax.eval_shape(self._start, self._theta_shape(), params, jnp.float32(1))
        optimizer = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), empty)
        return InnerState(
            lane, params, optimizer, jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32)
        )

    def begin(
        self, theta: Theta, state: InnerState, num_steps: Float[Array, ""]
    ) -> InnerState:
        """Start the optimizer, whose initial state may be learned."""
        optimizer = self._start(theta, state.params, num_steps)
        return state._replace(optimizer=optimizer, num_steps=num_steps)

    def shift(self, theta: Theta, offset: Theta, sign: Float[Array, ""]) -> Theta:
        """``theta + sign * offset``, in the form that the optimizer takes it."""
        if isinstance(self.optimizer, Rule):
            return self.optimizer.shift(theta, offset, sign)
        return network.shifted(theta, offset, sign)

    def inputs(self, state: InnerState, key: PRNGKeyArray, num_steps: int) -> Inputs:
        """Everything random in a window, drawn in one go."""
        task = self._lane(state.lane)

        def draw(key: PRNGKeyArray) -> Inputs:
            keys = jax.random.split(key, 6)
            return Inputs(
                train=(task.draw("train", keys[0]), keys[1]),
                inner_valid=(task.draw("inner_valid", keys[2]), keys[3]),
                outer_valid=(task.draw("outer_valid", keys[4]), keys[5]),
            )

        return jax.vmap(draw)(jax.random.split(key, num_steps))

    def step(
        self, theta: Theta, state: InnerState, key: PRNGKeyArray
    ) -> tuple[InnerState, Float[Array, ""]]:
        """One training step; the loss returned is the outer loss."""
        xs = self.inputs(state, key, 1)
        return self.advance(theta, state, jax.tree.map(lambda x: x[0], xs))

    def advance(
        self, theta: Theta, state: InnerState, x: Inputs
    ) -> tuple[InnerState, Float[Array, ""]]:
        """One training step with its randomness already drawn."""
        task = self._lane(state.lane)

        def loss_on(split: SplitName, params: Any, drawn: tuple[Any, PRNGKeyArray]):
            batch_draw, loss_key = drawn
            return task.loss(params, task.take(split, batch_draw), loss_key)

        params = self._unravel(state.params)
        train_loss, grads = jax.value_and_grad(
            lambda params: loss_on("train", params, x.train)
        )(params)
        shown = state.step % self.valid_every == 0
        inner_valid_loss = loss_on("inner_valid", params, x.inner_valid)
        signals = Signals(
            value=train_loss,
            valid_value=jnp.where(shown, inner_valid_loss, jnp.nan),
            num_steps=state.num_steps,
        )
        new_params, optimizer = self._update(theta, state, self._ravel(grads), signals)
        new = InnerState(
            state.lane, new_params, optimizer, state.step + 1, state.num_steps
        )
        loss = self.train_weight * train_loss
        if self.train_weight < 1:  # spares the forward pass otherwise
            after = loss_on("outer_valid", self._unravel(new_params), x.outer_valid)
            loss = loss + (1 - self.train_weight) * after
        best, initial = task.numbers.best_loss, task.numbers.initial_loss
        normalised = jnp.maximum((loss - best) / (initial - best), _LEAST)
        progress = (state.step + 0.5) / state.num_steps
        weight = 1 + self.end_emphasis * (2 * progress - 1)
        return new, weight * normalised

    def _lane(self, lane: Int[Array, ""]) -> Task:
        return self.task.lane(lane) if self.task.stacked else self.task

    @functools.cached_property
    def _layout(self) -> Flat:
        shapes = jax.eval_shape(self._lane(jnp.int32(0)).init, jax.random.key(0))
        return Flat(shapes)

    def _theta_shape(self) -> Theta:
        return jax.eval_shape(self.optimizer.init, jax.random.key(0))

    def _ravel(self, tree: Any) -> Any:
        return self._layout.ravel(tree) if isinstance(self.optimizer, Rule) else tree

    def _unravel(self, params: Any) -> Any:
        if isinstance(self.optimizer, Rule):
            return self._layout.unravel(params)
        return params

    def _start(self, theta: Theta, params: Any, num_steps: Float[Array, ""]) -> Any:
        if isinstance(self.optimizer, Rule):
            return self.optimizer.start(theta, params, self._layout)
        return self.optimizer.transform(theta, num_steps=num_steps).init(params)

    def _update(
        self, theta: Theta, state: InnerState, grads: Any, signals: Signals
    ) -> tuple[Any, Any]:
        if isinstance(self.optimizer, Rule):
            steps, optimizer = self.optimizer.advance(
                theta, state.optimizer, grads, state.params, self._layout, signals
            )
            return state.params + steps, optimizer
        steps, optimizer = self.optimizer.transform(
            theta, num_steps=state.num_steps
        ).update(
            grads,
            state.optimizer,
            state.params,
            value=signals.value,
            valid_value=signals.valid_value,
        )
        return optax.apply_updates(state.params, steps), optimizer
