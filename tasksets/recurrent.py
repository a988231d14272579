"""Recurrent networks: three cells, and their unrolling over tokens.

    VanillaRnn   h' = act(x W + b_W + h U + b_U)
    Gru          z = sigmoid(x W_z + h U_z + b_z),   r = sigmoid(x W_r + h U_r + b_r),
                 h' = (1 - z) h + z tanh(x W_h + (r h) U_h + b_h)
    Lstm         (i, j, f, o) = [x, h] W + b,
                 c' = sigmoid(f + 1) c + sigmoid(i) tanh(j),   h' = sigmoid(o) tanh(c')

with x the input, h the state and output, c the cell of Hochreiter and Schmidhuber 1997;
the GRU is that of Cho et al. 2014 (arXiv 1406.1078) in the form of arXiv 1412.3555. The
vanilla cell with relu and U = I is the IRNN of Le et al. 2015 (arXiv 1504.00941).

Cells, parameters and what initialises them are those of Sonnet 1, which TaskSet (Metz
et al. 2020, arXiv 2002.11887) is built on: two biases in the vanilla cell, 0 at the start;
those of the LSTM from a normal truncated at two of its standard deviations
1 / sqrt(inputs + size); those of the GRU uniform on +-sqrt(3 / size). The start of the
state is 0, and trained where a config says so.
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tasksets.activations import ActivationNumbers, activate, activation_numbers
from tasksets.initializers import (
    SONNET,
    InitializerNumbers,
    Kind,
    init_weight,
    initializer,
    normal_initializer,
)
from tasksets.names import UnknownNameError

Weights = PyTree
State = dict[str, Float[Array, "batch size"]]
Transition = Callable[[State, Float[Array, "batch gates"]], State]
WeightKind = Kind | Literal["identity"]
Initializer = tuple[str, float | None]  # a name of `initializers` or "identity", scale


class CellNumbers(NamedTuple):
    """What may differ between cells of equal structure."""

    initializers: dict[str, InitializerNumbers]  # by the name of a weight
    activation: ActivationNumbers | None  # of the vanilla cell


@dataclass(frozen=True)
class Cell(abc.ABC):
    """One step of a recurrent network; what needs no state is done for all time first."""

    size: int
    kinds: tuple[WeightKind, ...]  # of the weights, in the order of WEIGHTS

    WEIGHTS: ClassVar[tuple[str, ...]]
    STATE: ClassVar[tuple[str, ...]] = ("hidden",)  # "hidden" is the output too

    @abc.abstractmethod
    def init(self, numbers: CellNumbers, num_inputs: int, key: PRNGKeyArray) -> Weights:
        """Initial weights."""

    @abc.abstractmethod
    def project(
        self, weights: Weights, inputs: Float[Array, "*time batch inputs"]
    ) -> Float[Array, "*time batch gates"]:
        """What the inputs add to the gates, for all time at once."""

    @abc.abstractmethod
    def transition(self, numbers: CellNumbers, weights: Weights) -> Transition:
        """From a state and what `project` adds to the gates to the next state.

        What it does to the weights alone is done here, outside of the scan.
        """

    def draw(
        self,
        numbers: CellNumbers,
        shapes: dict[str, tuple[int, int]],
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, "rows columns"]]:
        """Weights of these shapes, each from its own law."""
        kinds = dict(zip(self.WEIGHTS, self.kinds, strict=True))
        keys = jax.random.split(key, len(shapes))
        drawn = {}
        for (name, shape), weight_key in zip(shapes.items(), keys, strict=True):
            kind, law = kinds[name], numbers.initializers[name]
            if kind == "identity":
                drawn[name] = jnp.sqrt(law.gain) * jnp.eye(*shape)
            else:
                drawn[name] = init_weight(kind, law, shape, weight_key)
        return drawn


class VanillaRnn(Cell):
    """The plain cell, with any activation."""

    WEIGHTS = ("in_to_hidden", "hidden_to_hidden")

    def init(self, numbers: CellNumbers, num_inputs: int, key: PRNGKeyArray) -> Weights:
        shapes = {
            "in_to_hidden": (num_inputs, self.size),
            "hidden_to_hidden": (self.size, self.size),
        }
        drawn = self.draw(numbers, shapes, key)
        return {name: {"w": w, "b": jnp.zeros(self.size)} for name, w in drawn.items()}

    def project(
        self, weights: Weights, inputs: Float[Array, "*time batch inputs"]
    ) -> Float[Array, "*time batch gates"]:
        layer = weights["in_to_hidden"]
        return inputs @ layer["w"] + layer["b"]

    def transition(self, numbers: CellNumbers, weights: Weights) -> Transition:
        assert numbers.activation is not None
        act = partial(activate, numbers.activation)
        layer = weights["hidden_to_hidden"]

        def step(state: State, projected: Float[Array, "batch gates"]) -> State:
            return {
                "hidden": act(projected + state["hidden"] @ layer["w"] + layer["b"])
            }

        return step


class Gru(Cell):
    """The gated recurrent unit, whose reset gate acts before the product with U_h."""

    WEIGHTS = ("wz", "wr", "wh", "uz", "ur", "uh")

    def init(self, numbers: CellNumbers, num_inputs: int, key: PRNGKeyArray) -> Weights:
        rows = {"w": num_inputs, "u": self.size}
        shapes = {name: (rows[name[0]], self.size) for name in self.WEIGHTS}
        weight_key, bias_key = jax.random.split(key)
        limit = math.sqrt(3 / self.size)
        biases = jax.random.uniform(
            bias_key, (3, self.size), minval=-limit, maxval=limit
        )
        drawn = self.draw(numbers, shapes, weight_key)
        return {**drawn, **dict(zip(("bz", "br", "bh"), biases, strict=True))}

    def project(
        self, weights: Weights, inputs: Float[Array, "*time batch inputs"]
    ) -> Float[Array, "*time batch gates"]:
        return inputs @ _side_by_side(weights, "wz", "wr", "wh") + _side_by_side(
            weights, "bz", "br", "bh"
        )

    def transition(self, numbers: CellNumbers, weights: Weights) -> Transition:
        del numbers
        u_zr, u_h = _side_by_side(weights, "uz", "ur"), weights["uh"]

        def step(state: State, projected: Float[Array, "batch gates"]) -> State:
            h = state["hidden"]
            x_zr, x_h = jnp.split(projected, [2 * self.size], axis=-1)
            z, r = jnp.split(jax.nn.sigmoid(x_zr + h @ u_zr), 2, axis=-1)
            return {"hidden": (1 - z) * h + z * jnp.tanh(x_h + (r * h) @ u_h)}

        return step


class Lstm(Cell):
    """The long short-term memory, with 1 added to the forget gate."""

    WEIGHTS = ("w_gates",)
    STATE = ("hidden", "cell")

    def init(self, numbers: CellNumbers, num_inputs: int, key: PRNGKeyArray) -> Weights:
        weight_key, bias_key = jax.random.split(key)
        rows, columns = num_inputs + self.size, 4 * self.size
        biases = jax.random.truncated_normal(bias_key, -2, 2, (columns,))
        return {
            **self.draw(numbers, {"w_gates": (rows, columns)}, weight_key),
            "b_gates": biases / math.sqrt(rows),
        }

    def project(
        self, weights: Weights, inputs: Float[Array, "*time batch inputs"]
    ) -> Float[Array, "*time batch gates"]:
        return inputs @ weights["w_gates"][: -self.size] + weights["b_gates"]

    def transition(self, numbers: CellNumbers, weights: Weights) -> Transition:
        del numbers
        w_hidden = weights["w_gates"][-self.size :]

        def step(state: State, projected: Float[Array, "batch gates"]) -> State:
            gates = projected + state["hidden"] @ w_hidden
            i, j, f, o = jnp.split(gates, 4, axis=-1)
            kept = jax.nn.sigmoid(f + 1) * state["cell"]
            cell = kept + jax.nn.sigmoid(i) * jnp.tanh(j)
            return {"hidden": jax.nn.sigmoid(o) * jnp.tanh(cell), "cell": cell}

        return step


def _side_by_side(weights: Weights, *names: str) -> Float[Array, "*rows columns"]:
    return jnp.concatenate([weights[name] for name in names], axis=-1)


@dataclass(frozen=True)
class Recurrent:
    """A cell unrolled over time, and the state that it starts from."""

    cell: Cell
    trainable_state: bool

    def init(self, numbers: CellNumbers, num_inputs: int, key: PRNGKeyArray) -> Weights:
        """{"cell": weights of the cell, and "state" where it is trained}."""
        params = {"cell": self.cell.init(numbers, num_inputs, key)}
        if self.trainable_state:
            zeros = jnp.zeros(self.cell.size)
            params["state"] = dict.fromkeys(self.cell.STATE, zeros)
        return params

    def apply(
        self,
        numbers: CellNumbers,
        params: Weights,
        inputs: Float[Array, "time batch inputs"],
    ) -> Float[Array, "time batch size"]:
        """The outputs; time goes first because the unrolling is a scan over it."""
        cell, weights = self.cell, params["cell"]
        batch_shape = (inputs.shape[1], cell.size)
        transition = cell.transition(numbers, weights)

        def step(state: State, projected: Array) -> tuple[State, Array]:
            state = transition(state, projected)
            return state, state["hidden"]

        projected = cell.project(weights, inputs)
        zeros = dict.fromkeys(cell.STATE, jnp.zeros(cell.size, projected.dtype))
        start = params["state"] if self.trainable_state else zeros
        # The inputs may be of a wider type than a start that is trained.
        state = {
            name: jnp.broadcast_to(s, batch_shape).astype(jnp.result_type(s, projected))
            for name, s in start.items()
        }
        return jax.lax.scan(step, state, projected)[1]


@dataclass(frozen=True)
class TokenRnn:
    """Tokens to outputs: an embedding, standard normal at the start, then a cell."""

    recurrent: Recurrent
    vocab_size: int  # greater tokens are read as vocab_size - 1
    embedding_size: int

    def init(self, numbers: CellNumbers, key: PRNGKeyArray) -> Weights:
        embedding_key, cell_key = jax.random.split(key)
        shape = (self.vocab_size, self.embedding_size)
        embedding = {"w": jax.random.normal(embedding_key, shape)}
        params = self.recurrent.init(numbers, self.embedding_size, cell_key)
        return {"embedding": embedding, **params}

    def apply(
        self, numbers: CellNumbers, params: Weights, tokens: Int[Array, "batch time"]
    ) -> Float[Array, "time batch size"]:
        # Time is first from here on: transposing tokens is cheaper than embeddings.
        # On CPU too this and its scatter beat a product with one-hot rows by far.
        embedded = params["embedding"]["w"].at[tokens.T].get(mode="clip")
        return self.recurrent.apply(numbers, params, embedded)


_CELLS: dict[str, type[Cell]] = {"vanilla": VanillaRnn, "gru": Gru, "lstm": Lstm}


@dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """A recurrent core: the fields of every recurrent family."""

    core: str  # vanilla, gru, lstm; uniform
    core_size: int  # of state and output; logint 32-128
    core_initializers: tuple[tuple[str, Initializer], ...]  # by weight; equal with p .8
    core_activation: str | None  # of a vanilla core; relu 6, tanh 3, and seven others
    trainable_state: bool  # whether the start of the state is trained; 50/50

    def core_as_taskset(self) -> list:
        """The core in the form of TaskSet's JSON: [name, its fields]."""
        weights = {name: list(law) for name, law in self.core_initializers}
        fields = {"core_dim": self.core_size, **weights}
        if self.core_activation is not None:
            fields["act_fn"] = self.core_activation
        return ["vrnn" if self.core == "vanilla" else self.core, fields]


def default_core(
    core: str, size: int, *, trainable_state: bool, activation: str | None = None
) -> CoreConfig:
    """A core with Sonnet's own initialisers, as the fixed tasks have it."""
    law: Initializer = ("glorot_uniform", None) if core == "gru" else SONNET
    activation = activation or ("tanh" if core == "vanilla" else None)
    return CoreConfig(
        core=core,
        core_size=size,
        core_initializers=tuple((name, law) for name in cell_class(core).WEIGHTS),
        core_activation=activation,
        trainable_state=trainable_state,
    )


def cell_class(core: str) -> type[Cell]:
    """The cell called `core`."""
    if core not in _CELLS:
        raise UnknownNameError("recurrent core", core, _CELLS)
    return _CELLS[core]


def build_recurrent(config: CoreConfig) -> tuple[Recurrent, CellNumbers]:
    """The structure and the numbers of a core."""
    cell = cell_class(config.core)
    laws = dict(config.core_initializers)
    if set(laws) != set(cell.WEIGHTS) or (config.core == "vanilla") != bool(
        config.core_activation
    ):
        raise ValueError(
            f"a {config.core} core has initializers for {', '.join(cell.WEIGHTS)}, and an "
            f"activation if it is vanilla; this config has them for {', '.join(laws)}, "
            f"and the activation {config.core_activation}"
        )
    built = {name: _build_initializer(laws[name]) for name in cell.WEIGHTS}
    activation = config.core_activation
    numbers = CellNumbers(
        initializers={name: law for name, (_, law) in built.items()},
        activation=None if activation is None else activation_numbers(activation),
    )
    kinds: tuple[WeightKind, ...] = tuple(kind for kind, _ in built.values())
    return Recurrent(cell(config.core_size, kinds), config.trainable_state), numbers


def _build_initializer(law: Initializer) -> tuple[WeightKind, InitializerNumbers]:
    name, scale = law
    if name == "identity":
        return "identity", normal_initializer(1.0 if scale is None else scale)
    return initializer(name, scale)
