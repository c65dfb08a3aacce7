"""The base of every configuration of recallfront."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

_NUMBER = re.compile(r"\s*[+-]?[\d._]+([eE][+-]?\d+)?\s*")  # what pydantic would convert
_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # YAML 1.1 reads 3e-3 as text


class Frozen(BaseModel):
    """A configuration: immutable, no key that is not declared, no number that is not finite or is a word or a truth."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, values: Any) -> Any:
        kinds = _field_kinds(cls)
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if name in kinds:
                try:
                    _check_number(value, kinds[name])
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        return values


def added_field(default: Any, **settings: Any) -> Any:
    """A setting that came later than results did: at its default it is left out of a configuration's JSON, so that
    keys of trials are what they were before.
    """
    return Field(default=default, exclude_if=lambda value: value == default, **settings)


def check_number(value: Any, annotation: Any) -> None:
    """Raise ValueError for true, false or text where `annotation` wants numbers; pydantic would convert them."""
    _check_number(value, _kinds(annotation))


def _check_number(value: Any, kinds: set[type]) -> None:
    if isinstance(value, list | tuple):
        for part in value:
            _check_number(part, kinds)
        return
    wants_number = bool(kinds & {int, float})
    if isinstance(value, bool) and wants_number and bool not in kinds:
        raise ValueError(f"{str(value).lower()} is not a number")
    is_text = isinstance(value, str) and wants_number and str not in kinds
    if is_text and _NUMBER.fullmatch(value) and not (float in kinds and _FLOAT.fullmatch(value)):
        raise ValueError(f"{value!r} is text, not a number")


@cache
def _field_kinds(kind: type[BaseModel]) -> dict[str, set[type]]:
    """The plain types of every field; to find them takes as long as all else that makes a configuration."""
    return {name: _kinds(field.annotation) for name, field in kind.model_fields.items()}


def _kinds(annotation: Any) -> set[type]:
    """The plain types that a value of `annotation` may have, within unions, sequences and literals."""
    arguments = get_args(annotation)
    if not arguments:
        return {annotation if isinstance(annotation, type) else type(annotation)}
    return set().union(*(_kinds(argument) for argument in arguments if argument is not Ellipsis))
