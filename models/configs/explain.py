"""Validation errors in one line: which key, which value, what is allowed."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

_MOST_SHOWN = 3  # errors, of many in one specification
_LONGEST_VALUE = 60  # characters
_FOLLOWS = frozenset({"num_layers"})  # of required fields those that are made of others if they are missing
_YAML = {"None": "null", "True": "true", "False": "false"}  # as a specification has them
_TOLD = "told"  # the type of an error whose message is what stands after the place, word for word


def explain(error: ValidationError, *roots: type[BaseModel]) -> str:
    """A validation error of a model, or of a union of models that their architecture tells apart, in one line."""
    return "; ".join(_explain_one(part, roots) for part in _parts(error)[:_MOST_SHOWN])


def _parts(error: ValidationError) -> list[Any]:
    """The errors but those that others already tell."""
    parts = error.errors()
    # A list whose members are wrong, at any depth, is also "too short" to pydantic: the members say it all.
    within = {part["loc"][:depth] for part in parts for depth in range(len(part["loc"]))}
    return [part for part in parts if part["type"] != "too_short" or part["loc"] not in within]


def told(location: tuple[int | str, ...], value: object, rest: str) -> ValidationError:
    """An error of a value in a nested place; `rest` follows the place's name, such as `=3: must be even`."""
    return ValidationError.from_exception_data("error", [_line(location, value, rest)])


def retold(
    error: ValidationError, model: type[BaseModel], location: tuple[str, ...] = (), note: str = ""
) -> ValidationError:
    """A model's error as one at a location below which only that model knows what is allowed; a note follows it."""
    lines = [
        _line((*location, *part["loc"]), part["input"], _rest(part, [model]) + note) for part in _parts(error)
    ]
    return ValidationError.from_exception_data("error", lines)


def _line(location: tuple[int | str, ...], value: object, rest: str) -> InitErrorDetails:
    kind = PydanticCustomError(_TOLD, "{rest}", {"rest": rest})
    return InitErrorDetails(type=kind, loc=location, input=value)


def near_first(word: object, allowed: Iterable[str]) -> str:
    """What is allowed, sorted, after what the word may have been meant as."""
    known = sorted(allowed)
    near = difflib.get_close_matches(str(word), known, n=3)
    return ", ".join([*near, *(name for name in known if name not in near)])


def shown(value: object) -> str:
    """A value as an error shows it."""
    return shortened(_YAML.get(repr(value)) or repr(value))


def shortened(text: str) -> str:
    """A text as an error shows it."""
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _explain_one(part: Any, roots: Sequence[type[BaseModel]]) -> str:
    where = _walk(roots, part["loc"])[1]
    rest = _rest(part, roots)
    return where + rest if where else rest.lstrip("=").removeprefix(": ")


def _rest(part: Any, roots: Sequence[type[BaseModel]]) -> str:
    """What stands after the name of the place: the value and what is allowed."""
    model = _walk(roots, part["loc"])[0]
    kind, message, limits = part["type"], part["msg"], part.get("ctx", {})
    if kind == _TOLD:
        return str(limits["rest"])
    if kind == "extra_forbidden":
        return f": unknown key; allowed are {near_first(part['loc'][-1], model.model_fields)}"
    if kind == "missing" and isinstance(part["loc"][-1], int):
        return f"={shown(part['input'])}: too few values"
    if kind == "missing":
        required = [name for name, field in model.model_fields.items() if field.is_required()]
        needed = [name for name in required if name not in _FOLLOWS]
        return f": is missing; needed are {', '.join(needed)}"
    if kind == "value_error":
        return f": {message.removeprefix('Value error, ')}"
    if kind == "too_short":
        allowed = f"needs at least {limits['min_length']} of them"
    elif kind in ("tuple_type", "list_type"):
        allowed = "must be a list"
    elif kind in ("dict_type", "model_type", "model_attributes_type"):
        allowed = "must be a mapping of keys to values"
    else:
        allowed = f"{message[0].lower()}{message[1:]}"
    return f"={shown(part['input'])}: {allowed}"


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
