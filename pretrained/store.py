"""Trained optimizers on disk: one folder each, complete or not there at all.

    model.safetensors   the leaves of theta by path
    config.json         the optimizer by its registered name, its fields, the card,
                        and the checksum that ties the weights to them
    README.md           the card, for people

The tree of theta is not stored: the rebuilt optimizer's ``init`` says what it is.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optax
import safetensors
import safetensors.numpy
from jaxtyping import ArrayLike, PyTree

import learned_opt
from pretrained import leaves, released
from pretrained.card import Card

_FORMAT = 1  # raised whenever an older version could misread a folder
_WEIGHTS, _CONFIG, _README = "model.safetensors", "config.json", "README.md"
_SHIPPED = Path(__file__).parent / "weights"


class CorruptWeightsError(ValueError):
    """The files of a trained optimizer are not the ones that were saved."""


class UnknownPretrainedError(LookupError):
    """No trained optimizer with this name is shipped."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained optimizer.

    Attributes:
      optimizer: the function from meta-parameters to an optax transform.
      theta: its trained meta-parameters.
      card: what it was trained on, how well it does, where it fails.
    """

    optimizer: learned_opt.LearnedOptimizer
    theta: PyTree
    card: Card

    def transform(
        self,
        *,
        num_steps: ArrayLike | None = None,
        layout: type[learned_opt.Layout] | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """The optax transform.

        Args:
          num_steps: length of the whole run in updates, with those before a checkpoint.
          layout: `learned_opt.Flat` for hundreds of tensors on one device; only a
            `learned_opt.Rule` has the choice.
        """
        options = {} if layout is None else {"layout": layout}
        return self.optimizer.transform(self.theta, num_steps=num_steps, **options)


def available() -> dict[str, str]:
    """The shipped optimizers: one line of description by name."""
    return {
        name: _read_card(folder, _read_config(folder)).summary
        for name, folder in _shipped().items()
    }


def optimizer(
    name_or_path: str | os.PathLike[str],
    *,
    num_steps: ArrayLike | None = None,
    layout: type[learned_opt.Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A trained optimizer as an optax transform; see `load` and `Pretrained`."""
    return load(name_or_path).transform(num_steps=num_steps, layout=layout)


def load(name_or_path: str | os.PathLike[str]) -> Pretrained:
    """A shipped optimizer by its name, or any saved one by the path of its folder.

    Names come first: a folder of the same name is loaded as ``"./name"``. The path of a
    file is that of weights which others have released, VeLO's for one; see `released`.

    Raises:
      UnknownPretrainedError: no shipped optimizer and no folder has this name.
      FileNotFoundError: the folder, or a file in it, is missing.
      CorruptWeightsError: a file is truncated or was changed.
      learned_opt.UnknownOptimizerError: this version has no such optimizer class.
      ValueError: this version's optimizer does not take these fields or weights.
    """
    folder = _find(name_or_path)
    if folder.is_file():
        return Pretrained(*released.read(folder))
    config = _read_config(folder)
    saved = config["optimizer"]
    try:
        cls = learned_opt.get(saved["name"])
    except learned_opt.UnknownOptimizerError as error:
        own = saved.get("module")
        hint = f"; it was registered by {own!r}: import that first" if own else ""
        raise learned_opt.UnknownOptimizerError(
            f"{folder / _CONFIG}: {error}{hint}"
        ) from None
    rebuilt = _build(cls, saved["fields"], folder)
    arrays = _read_weights(folder / _WEIGHTS, config["sha256"])
    theta = leaves.restore(rebuilt, arrays, str(folder / _WEIGHTS))
    return Pretrained(rebuilt, theta, _read_card(folder, config))


def save(
    path: str | os.PathLike[str],
    optimizer: learned_opt.LearnedOptimizer,
    theta: PyTree,
    card: Card,
    *,
    overwrite: bool = False,
) -> None:
    """Write a trained optimizer to a new folder, which `load` reads.

    The folder appears when it is complete; an error on the way leaves none.

    Args:
      path: the folder; its last part is the optimizer's name.
      optimizer: of a class that `learned_opt.register` knows, as the package's are; a
        dataclass of numbers, strings, tuples.
      theta: as ``optimizer.init`` gives it, trained.
      card: what a person should know about it.
      overwrite: replace what was saved at ``path`` before (never other files).

    Raises:
      FileExistsError: ``path`` exists, and is not to be (or cannot be) overwritten.
      learned_opt.UnknownOptimizerError: the optimizer's class is not registered.
      ValueError: ``theta`` or the optimizer's fields would not come back as they are.
    """
    if not isinstance(card, Card):
        raise TypeError(f"`card` is a `pretrained.Card`, not {card!r}")
    name = learned_opt.name_of(optimizer)
    folder = Path(path).expanduser().resolve()
    _check_free(folder, overwrite)
    arrays = leaves.name_leaves(optimizer, theta)
    weights = safetensors.numpy.save(arrays)
    module = type(optimizer).__module__
    own = {} if module.startswith("learned_opt.") else {"module": module}
    config = {
        "format": _FORMAT,
        "optimizer": {
            "name": name,
            "fields": _plain_fields(optimizer),
            **own,
        },
        "theta": {
            name: {"shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in arrays.items()
        },
        "sha256": hashlib.sha256(weights).hexdigest(),
        "card": dataclasses.asdict(card),
    }
    with _complete_or_absent(folder) as draft:
        (draft / _WEIGHTS).write_bytes(weights)
        (draft / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        (draft / _README).write_text(
            card.markdown(folder.name, own.get("module", "")), "utf-8"
        )


# Finding a folder.


def _shipped() -> dict[str, Path]:
    folders = sorted(config.parent for config in _SHIPPED.glob(f"[!.]*/{_CONFIG}"))
    return {folder.name: folder for folder in folders}


def _find(name_or_path: str | os.PathLike[str]) -> Path:
    """A folder, or a file of released weights."""
    shipped = _shipped()
    if isinstance(name_or_path, str) and name_or_path in shipped:
        return shipped[name_or_path]
    folder = Path(name_or_path).expanduser()
    if folder.exists():
        return folder
    if not isinstance(name_or_path, str) or len(folder.parts) > 1:
        hint = _hint_of_run(folder.parent)
        raise FileNotFoundError(f"there is no folder or file {folder}{hint}")
    near = difflib.get_close_matches(name_or_path, shipped, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownPretrainedError(
        f"no trained optimizer named {name_or_path!r}, and no such folder or file; {hint}"
        f"shipped: {', '.join(shipped) or 'none'}"
    )


def _hint_of_run(folder: Path) -> str:
    """What to do where a run has no theta yet; empty where there is no such run."""
    if (folder / "theta").exists() or not (folder / "checkpoints").is_dir():
        return ""
    return (
        "; a run writes its theta when it ends or is told to stop, and after a kill "
        f"`learned-opt train --folder {folder} --resume --time-budget 1s` does, from the "
        "last checkpoint"
    )


# Reading.


def _read_config(folder: Path) -> dict[str, Any]:
    missing = [name for name in (_CONFIG, _WEIGHTS) if not (folder / name).is_file()]
    if missing:
        of_run = (folder / "theta" / _WEIGHTS).is_file()
        hint = f"; did you mean {folder / 'theta'}?" if of_run else _hint_of_run(folder)
        raise FileNotFoundError(
            f"{folder} holds no trained optimizer: it lacks {' and '.join(missing)}{hint}"
        )
    file = folder / _CONFIG
    try:
        config = json.loads(file.read_text("utf-8"))
        version = config["format"]
        if version == _FORMAT:
            _ = config["optimizer"]["name"], config["optimizer"]["fields"].keys()
            _ = config["sha256"], config["card"].keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptWeightsError(
            f"{file} is truncated or was changed ({type(error).__name__}: {error})"
        ) from error
    if version != _FORMAT:
        raise ValueError(
            f"{file} has format {version}, and this version of learned-opt reads "
            f"format {_FORMAT}; upgrade learned-opt"
        )
    return config


def _read_card(folder: Path, config: dict[str, Any]) -> Card:
    return _build(Card, config["card"], folder)


def _read_weights(file: Path, sha256: str) -> dict[str, Any]:
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise CorruptWeightsError(
            f"{file} is truncated or was changed: its sha256 is {found[:12]}..., and "
            f"{sha256[:12]}... was saved; copy or download the folder again"
        )
    try:
        return safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise CorruptWeightsError(f"{file} is no safetensors file: {error}") from error


def _build(cls: type, fields: dict[str, Any], folder: Path) -> Any:
    """The dataclass with these fields, as `_plain_fields` gave them."""
    known = {field.name for field in dataclasses.fields(cls) if field.init}
    if unknown := sorted(fields.keys() - known):
        raise ValueError(
            f"{folder / _CONFIG}: {cls.__name__} has no {', '.join(unknown)}; "
            f"it was saved by another version of learned-opt"
        )
    try:
        return cls(**{name: _tuples(value) for name, value in fields.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / _CONFIG}: {cls.__name__}: {error}") from error


# Writing.


def _plain_fields(optimizer: Any) -> dict[str, Any]:
    """The fields of a dataclass, each proven to survive JSON."""
    names = [field.name for field in dataclasses.fields(optimizer) if field.init]
    fields = {name: getattr(optimizer, name) for name in names}
    for name, value in fields.items():
        try:
            survives = _tuples(json.loads(json.dumps(value))) == value
        except (TypeError, ValueError):
            survives = False
        if not survives:
            raise ValueError(
                f"{type(optimizer).__name__}.{name} cannot be saved: {value!r}; use "
                f"numbers, strings, booleans, None, and tuples of these"
            )
    return fields


def _tuples(value: Any) -> Any:
    """JSON has lists only; the fields of a frozen dataclass are tuples only."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value


def _check_free(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{folder} exists; overwrite=True replaces it")
    found = set(os.listdir(folder)) if folder.is_dir() else None
    if found is None or not found <= {_WEIGHTS, _CONFIG, _README}:
        raise FileExistsError(
            f"{folder} is not (only) a trained optimizer, so it is not replaced; "
            f"remove it, or save elsewhere"
        )


@contextlib.contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """A draft that becomes ``folder`` when the block ends, and vanishes if it fails."""
    sibling = lambda: folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft, old = sibling(), sibling()
    draft.mkdir()
    try:
        yield draft
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        shutil.rmtree(draft, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
