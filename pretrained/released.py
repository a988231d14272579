"""Weights that others have released, read from the files that they wrote.

google/learned_optimization and the authors of Celo keep theta as a tree of arrays under the
names that haiku gives them, in flax's msgpack. The names say whose theta it is:

    VeLO                 lstm_init_state, rnn_params, and ff_mod_stack of 256 networks
    Celo                 the same, of one network
    Celo2                ff_mod_stack alone
    `adafactor_mlp`      momentum_decays, rms_decays, adafactor_decays, nn
    `per_parameter_mlp`  mlp/~/linear_0 to mlp/~/linear_2

That of VeLO is public, 9 MB, in the bucket ``gs://gresearch/learned_optimization``:
``pretrained_lopts/aug12_continue_on_bigger_2xbs_200kstep_bigproblem_v2_5620/params``, with a
``config.gin`` beside it. Some of its forerunners there have the same shapes and mean another
function, which only their ``config.gin`` tells: keep it beside the weights. The MLP with an
LSTM of that code (RNNMLPLOpt) is not our `hierarchical`, which follows the paper.

No code in such a file is run: arrays are all that is read.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jaxtyping import Array

from learned_opt import (
    AdafactorMLP,
    Celo,
    Celo2,
    HyperV2,
    LearnedOptimizer,
    PerParameterMLP,
)
from learned_opt.adafactor_mlp import AdafactorDecays, AdafactorMLPTheta
from learned_opt.celo import CeloRuleTheta, CeloSchedulerTheta, CeloTheta
from learned_opt.celo2 import Celo2Theta
from learned_opt.hyper_v2 import HyperV2Theta
from learned_opt.network import Dense
from learned_opt.per_parameter_mlp import PerParameterMLPTheta
from pretrained import leaves
from pretrained.card import Card

_Take = Callable[[str], Array]  # removes an array by its path, and returns it


class _Kind(NamedTuple):
    """One optimizer whose weights others release.

    Attributes:
      optimizer: ours that computes the same.
      source: who published it.
      theta: its meta-parameters of the arrays that it takes.
      unread: paths of arrays that have no effect there either.
    """

    optimizer: LearnedOptimizer
    source: str
    theta: Callable[[_Take], Any]
    unread: tuple[str, ...] = ()


def read(file: Path) -> tuple[LearnedOptimizer, Any, Card]:
    """The optimizer, its theta and a card, of a file of weights.

    Raises:
      ValueError: it is no such file, of none of the optimizers above, or of one that
        computes something else.
    """
    arrays = _arrays(file)
    kind = _kind(arrays, file)

    def take(path: str) -> Array:
        if path not in arrays:
            raise ValueError(f"it lacks {path!r}, which {kind.source} has")
        return jnp.asarray(arrays.pop(path))

    try:
        theta = kind.theta(take)
        if unknown := arrays.keys() - kind.unread:
            raise ValueError(f"{kind.source} has no use for {sorted(unknown)}")
        leaves.name_leaves(kind.optimizer, theta)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{file}: {error}") from error
    return kind.optimizer, theta, _card(file, kind)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of the theta in a file, by path."""
    try:
        tree = serialization.msgpack_restore(file.read_bytes())
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file} is not a file of weights, as flax's msgpack has them, or is cut short "
            f"({type(error).__name__}: {error})"
        ) from error
    # Beside theta some files have where training was, as fields or as a tuple's entries.
    for name in ("params", "0"):
        if isinstance(tree, dict) and isinstance(tree.get(name), dict):
            tree = tree[name]
    if not isinstance(tree, dict):
        raise ValueError(f"{file} holds {type(tree).__name__}, not a tree of weights")
    return dict(_flat(tree))


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", np.asarray(value)


def _kind(arrays: Mapping[str, np.ndarray], file: Path) -> _Kind:
    names = {path.partition("/")[0] for path in arrays}
    if names == {"lstm_init_state", "rnn_params", "ff_mod_stack"}:
        if np.size(arrays.get("lstm_init_state/cell", 0)) != 512:
            return _CELO
        _require_final(file)
        return _VELO
    if names == {"ff_mod_stack"}:
        return _CELO2
    if names == {"momentum_decays", "rms_decays", "adafactor_decays", "nn"}:
        return _ADAFACTOR_MLP
    if names == {"mlp"}:
        return _PER_PARAMETER_MLP
    raise ValueError(
        f"{file} has {sorted(names)}, and weights of VeLO, Celo, Celo2, adafactor_mlp "
        "(AdafacMLPLOpt) or per_parameter_mlp (MLPLOpt) are what can be read"
    )


def _require_final(file: Path) -> None:
    """Refuse weights of VeLO's forerunners, whose loss features had another meaning."""
    config = file.with_name("config.gin")
    if not config.is_file():
        return
    text = config.read_text("utf-8")
    if not re.search(r"HyperV2\.use_bugged_loss_features *= *False", text):
        raise ValueError(
            f"{file} is older than VeLO: by {config.name} beside it "
            "use_bugged_loss_features is not False, and hyper_v2 has no such features"
        )


def _card(file: Path, kind: _Kind) -> Card:
    return Card(
        summary=f"{kind.source}, weights of the file {file.name}.",
        trained_on="The file does not say; see its source.",
        command=f"pretrained.load({str(file)!r})  # {kind.optimizer!r}",
        compute="The file does not say.",
        results="Not measured here: `learned-opt evaluate` does, with this file as a name.",
        failures="The file does not say; see its source.",
        licence="That of its source.",
    )


# The trees, one by one.


def _linear(take: _Take, module: str) -> Dense:
    return Dense(take(f"{module}/w"), take(f"{module}/b"))


def _network(take: _Take, module: str, inputs: tuple[str, ...]) -> tuple[Dense, ...]:
    """Three layers; the weights of the first may be split over groups of inputs."""
    first = [take(f"{module}/{name}") for name in inputs]
    weights = [
        jnp.concatenate(first, axis=-2),
        take(f"{module}/w1"),
        take(f"{module}/w2"),
    ]
    biases = [take(f"{module}/b{i}") for i in range(3)]
    return tuple(Dense(w, b) for w, b in zip(weights, biases, strict=True))


_GROUPS = tuple(f"w0__{i}" for i in range(14))  # of the 30 inputs, in their order


def _tensor_network(take: _Take) -> dict[str, Any]:
    """What Celo has of VeLO's network for tensors."""
    return {
        "mix": _linear(take, "rnn_params/linear_1"),
        "inputs": _linear(take, "rnn_params/linear_2"),
        "lstm": _linear(take, "rnn_params/rnn/linear"),
        "initial_hidden": take("lstm_init_state/hidden")[0],
        "initial_cell": take("lstm_init_state/cell")[0],
        "step_size": _linear(take, "rnn_params/step_size"),
    }


def _velo(take: _Take) -> HyperV2Theta:
    return HyperV2Theta(
        **_tensor_network(take),
        controls=_linear(take, "rnn_params/rnn_to_controls"),
        bank=_network(take, "ff_mod_stack/~", _GROUPS),
    )


def _celo(take: _Take) -> CeloTheta:
    stack = _network(take, "ff_mod_stack/~", _GROUPS)
    rule = CeloRuleTheta(jax.tree.map(lambda x: x[0], stack))
    return CeloTheta(rule, CeloSchedulerTheta(**_tensor_network(take)))


def _celo2(take: _Take) -> Celo2Theta:
    return Celo2Theta(_network(take, "ff_mod_stack/~", _GROUPS))


def _adafactor_mlp(take: _Take) -> AdafactorMLPTheta:
    names = ("momentum_decays", "rms_decays", "adafactor_decays")
    return AdafactorMLPTheta(
        _network(take, "nn/~", ("w0",)), AdafactorDecays(*map(take, names))
    )


def _per_parameter_mlp(take: _Take) -> PerParameterMLPTheta:
    layers = [_linear(take, f"mlp/~/linear_{i}") for i in range(3)]
    return PerParameterMLPTheta(tuple(layers))


# A first layer whose result is overwritten by the second; where there is one network only,
# how it is mixed.
_OVERWRITTEN = ("rnn_params/linear/w", "rnn_params/linear/b")
_MIXED = ("rnn_params/rnn_to_controls/w", "rnn_params/rnn_to_controls/b")

_VELO = _Kind(
    HyperV2(legacy=True), "VeLO (Metz et al. 2022, 2211.09760)", _velo, _OVERWRITTEN
)
_CELO = _Kind(
    Celo(), "Celo (Moudgil et al. 2025, 2501.12670)", _celo, _OVERWRITTEN + _MIXED
)
_CELO2 = _Kind(Celo2(), "Celo2 (Moudgil et al. 2026, 2602.19142)", _celo2)
_ADAFACTOR_MLP = _Kind(
    AdafactorMLP(), "AdafacMLPLOpt of google/learned_optimization", _adafactor_mlp
)
_PER_PARAMETER_MLP = _Kind(
    PerParameterMLP(), "MLPLOpt of google/learned_optimization", _per_parameter_mlp
)
