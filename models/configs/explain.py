"""Validation errors in one line: which key, which value, what is allowed."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

_MOST_SHOWN = 3  # errors, of many in one specification
_LONGEST_VALUE = 60  # characters


def explain(error: ValidationError, *roots: type[BaseModel]) -> str:
    """A validation error of a model, or of a union of models that their architecture tells apart, in one line."""
    parts = error.errors()
    # A list whose members are wrong is also "too short" to pydantic: the members say it all.
    within = {part["loc"][:-1] for part in parts if part["loc"]}
    told = [part for part in parts if part["type"] != "too_short" or part["loc"] not in within]
    return "; ".join(_explain_one(part, roots) for part in told[:_MOST_SHOWN])


def near_first(word: object, allowed: Iterable[str]) -> str:
    """What is allowed, sorted, after what the word may have been meant as."""
    known = sorted(allowed)
    near = difflib.get_close_matches(str(word), known, n=3)
    return ", ".join([*near, *(name for name in known if name not in near)])


def shown(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _explain_one(part: Any, roots: Sequence[type[BaseModel]]) -> str:
    model, where = _walk(roots, part["loc"])
    kind, message, limits = part["type"], part["msg"], part.get("ctx", {})
    if kind.startswith("union_tag_"):
        key = f"{where}.architecture".lstrip(".")
        given = f"{key}={shown(limits['tag'])}" if "tag" in limits else f"{key}: is missing"
        names = re.findall(r"'(\w+)'", limits.get("expected_tags", "")) or [str(_tag(root)) for root in roots]
        return f"{given}; it must be one of {near_first(limits.get('tag'), names)}"
    if kind == "extra_forbidden":
        return f"{where}: unknown key; allowed are {near_first(part['loc'][-1], model.model_fields)}"
    if kind == "missing" and isinstance(part["loc"][-1], int):
        return f"{where}={shown(part['input'])}: too few values"
    if kind == "missing":
        needed = [name for name, field in model.model_fields.items() if field.is_required()]
        return f"{where}: is missing; needed are {', '.join(needed)}"
    if kind == "value_error":
        message = message.removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    if kind == "too_short":
        allowed = f"needs at least {limits['min_length']} of them"
    elif kind in ("tuple_type", "list_type"):
        allowed = "must be a list"
    elif kind in ("dict_type", "model_type", "model_attributes_type"):
        allowed = "must be a mapping of keys to values"
    else:
        allowed = f"{message[0].lower()}{message[1:]}"
    return f"{where}={shown(part['input'])}: {allowed}".lstrip("=")


def _walk(roots: Sequence[type[BaseModel]], location: tuple[int | str, ...]) -> tuple[type[BaseModel], str]:
    """The model that the last key of a location belongs to, and the location as it is written in a specification."""
    model, where = roots[0], ""
    candidates = list(roots)
    for part in location:
        if isinstance(part, int):
            where += f"[{part}]"
            continue
        tagged = [found for found in candidates if _tag(found) == part and len(candidates) > 1]
        if tagged:  # pydantic's own: which member of a union was meant
            candidates = tagged
            continue
        where += f".{part}" if where else part
        model = candidates[0] if candidates else model
        field = model.model_fields.get(part)
        candidates = list(_models(field.annotation)) if field is not None else []
    return model, where


def _models(annotation: Any) -> Iterable[type[BaseModel]]:
    """The models that an annotation is made of, such as a tuple's or a union's."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


def _tag(model: type[BaseModel]) -> object:
    field = model.model_fields.get("architecture")
    return field.default if field is not None else None
