"""Names: the grammar of task names, and the error for a name nobody knows.

    family/seedN[@dataset][?field=value&field=value]
    fixed_task[@dataset][?field=value&field=value]

`mlp_family/seed7` is the task that TaskSet calls `mlp_family_seed7` (which is
accepted too); `@digits` swaps its data set; `?hidden=128-128&activation=tanh` changes
fields of its config. What wraps a task follows in a suffix, see `wrappers/suffix.py`.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

_GRAMMAR = re.compile(
    r"(?P<family>[A-Za-z]\w*?)([/_]seed(?P<seed>\d+))?"
    r"(@(?P<dataset>[^?@]+))?(\?(?P<fields>.+))?"
)


class UnknownNameError(LookupError):
    """A name that is not registered; the message has the nearest ones that are."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        shown = ", ".join(nearest[:12])
        super().__init__(f"unknown {kind} {name!r}; nearest: {shown}")
        self.kind, self.name, self.known = kind, name, known

    def __reduce__(self) -> Any:
        return type(self), (self.kind, self.name, self.known)  # another process gets it


@dataclasses.dataclass(frozen=True)
class TaskName:
    """The parts of a task's name."""

    family: str  # or the name of a fixed task
    seed: int | None  # None: a fixed task
    dataset: str | None = None  # None: the one that the config says
    fields: tuple[tuple[str, str], ...] = ()  # (field, value as spelled)

    def __str__(self) -> str:
        dataset = f"@{self.dataset}" if self.dataset else ""
        fields = "&".join(f"{field}={value}" for field, value in self.fields)
        return f"{self.root}{dataset}{'?' + fields if fields else ''}"

    @property
    def root(self) -> str:
        """The part that decides whether a task is for training or for testing."""
        return self.family if self.seed is None else f"{self.family}/seed{self.seed}"


def parse(name: str) -> TaskName:
    """Takes a name apart; raises ValueError where the grammar does not fit."""
    match = _GRAMMAR.fullmatch(name)
    if match is None:
        raise ValueError(
            f"cannot read the task name {name!r}; names look like "
            "'mlp_family/seed7', 'mlp_family/seed7@digits', 'TwoD_Bowl10' or "
            "'small_mlp/seed3@digits?hidden=128-128&activation=tanh'"
        )
    fields = []
    for assignment in (match["fields"] or "").split("&") if match["fields"] else ():
        field, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r} in {name!r} is not of form field=value")
        fields.append((field, value))
    seed = None if match["seed"] is None else int(match["seed"])
    return TaskName(match["family"], seed, match["dataset"], tuple(fields))


def override(config: Any, name: TaskName) -> tuple[Any, TaskName]:
    """Applies a name's data set and fields to a config.

    Returns the new config and the canonical name: fields in the order of the config,
    values in one spelling, `?dataset=x` as `@x`.
    """
    hints = typing.get_type_hints(type(config))
    if name.dataset is not None and "dataset" not in hints:
        raise ValueError(f"{name.root} has no data set to swap for {name.dataset!r}")
    at_dataset = (("dataset", name.dataset),) if name.dataset is not None else ()
    spelled: dict[str, str] = {}
    for field, text in at_dataset + name.fields:
        if field not in hints:
            raise UnknownNameError(f"field of {name.family}", field, hints)
        if field in spelled:
            raise ValueError(f"{name} sets {field} twice")
        if field in _without_effect(type(config)):
            raise ValueError(
                f"{name} sets {field}, which TaskSet samples but does not apply: it "
                "would change nothing"
            )
        spelled[field] = text
    values = {
        field: _parse_value(spelled[field], hint, field)
        for field, hint in hints.items()
        if field in spelled
    }
    fields = tuple((f, _spell(v)) for f, v in values.items() if f != "dataset")
    dataset = values.get("dataset")
    canonical = dataclasses.replace(name, dataset=dataset, fields=fields)
    return dataclasses.replace(config, **values), canonical


# Metadata of a field of a config that stands for a draw of TaskSet, and does nothing.
NOT_APPLIED = {"applied": False}


def _without_effect(kind: type) -> set[str]:
    fields = dataclasses.fields(kind)
    return {f.name for f in fields if not f.metadata.get("applied", True)}


def _parse_value(text: str, hint: Any, field: str) -> Any:
    """Reads a value of the annotated type: int, float, bool, str, or a tuple of one."""
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    if type(None) in options and text.lower() == "none":
        return None
    (kind,) = (option for option in options if option is not type(None))
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
        if typing.get_origin(kind) is tuple:
            (of, *_) = typing.get_args(kind)
            if of in (int, float, str):
                parts = [] if text.lower() == "none" else text.split("-")
                return tuple(of(part) for part in parts)
    except (ValueError, KeyError):
        pass
    wanted = getattr(hint, "__name__", str(hint)) if kind is hint else str(hint)
    raise ValueError(f"cannot read {field}={text!r} as {wanted}")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _spell(value: Any) -> str:
    if isinstance(value, tuple) and value:
        return "-".join(str(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value not in (None, ()) else "none"
