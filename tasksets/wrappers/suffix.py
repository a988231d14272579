"""The suffix of a name that says how a task is wrapped, the innermost wrapper first.

    name+wrapper[:field=value&field=value][+wrapper...]

A plus that begins a wrapper is followed by a letter, so that `1e+22` may be a value.
The canonical suffix has every field, in the order of the wrapper's dataclass.
"""

import re
from typing import Any

from tasksets.names import UnknownNameError
from tasksets.task import Task
from tasksets.wrappers.bf16 import Bf16
from tasksets.wrappers.es_gradient import EsGradient
from tasksets.wrappers.gradient_noise import GradientNoise
from tasksets.wrappers.normalized_gradient import NormalizedGradient
from tasksets.wrappers.reduced_batch import ReducedBatch
from tasksets.wrappers.reparametrized import Reparametrized
from tasksets.wrappers.subspace_gradient import SubspaceGradient
from tasksets.wrappers.wrapper import Wrapper

_PLUS = re.compile(r"\+(?=[a-z])")

WRAPPERS: dict[str, type[Wrapper]] = {
    wrapper.keyword: wrapper
    for wrapper in (
        Reparametrized,
        EsGradient,
        ReducedBatch,
        Bf16,
        NormalizedGradient,
        SubspaceGradient,
        GradientNoise,
    )
}


def split(name: str) -> tuple[str, str]:
    """The name of the task inside, and the suffix, which is empty where there is none."""
    plus = _PLUS.search(name)
    return (name, "") if plus is None else (name[: plus.start()], name[plus.start() :])


def parse(suffix: str) -> tuple[Wrapper, ...]:
    """The wrappers of a suffix; as strings, joined, they are the canonical suffix."""
    if not suffix:
        return ()
    first, *parts = _PLUS.split(suffix)
    if first:
        raise ValueError(
            f"cannot read the suffix {suffix!r}; suffixes look like '+bf16' or "
            "'+bf16+es_gradient:std=0.01&pairs=4'"
        )
    return tuple(_parse_one(part) for part in parts)


def apply(task: Task, suffix: str) -> Task:
    """The task wrapped as a suffix says; its name has the canonical suffix."""
    for wrapper in parse(suffix):
        task = wrapper(task)
    return task


def _parse_one(text: str) -> Wrapper:
    keyword, colon, assignments = text.partition(":")
    if keyword not in WRAPPERS:
        raise UnknownNameError("wrapper", keyword, WRAPPERS)
    fields = WRAPPERS[keyword].fields()
    values: dict[str, Any] = {}
    for assignment in assignments.split("&") if colon else ():
        field, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r} in '+{text}' is not of form field=value")
        if field not in fields:
            if not fields:
                raise ValueError(f"'+{text}': {keyword} has no fields, so no {field!r}")
            raise UnknownNameError(f"field of {keyword}", field, fields)
        if field in values:
            raise ValueError(f"'+{text}' sets {field} twice")
        values[field] = _parse_value(value, fields[field], field)
    missing = [field for field in fields if field not in values]
    if missing:
        raise ValueError(
            f"'+{text}' lacks {', '.join(missing)}; {keyword} has the fields "
            f"{', '.join(fields)}"
        )
    return WRAPPERS[keyword](**values)


def _parse_value(text: str, kind: type, field: str) -> int | float | bool | str:
    try:
        return {"true": True, "false": False}[text] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise ValueError(f"cannot read {field}={text!r} as {kind.__name__}") from None
