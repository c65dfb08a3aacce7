"""The tasks by name: the files of this folder, and what plug-ins add."""

import pkgutil
from collections.abc import Iterator
from functools import cache, reduce
from importlib import import_module
from operator import or_
from types import ModuleType
from typing import Annotated, Any, get_args

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

import recallfront.sweeps.tasks as tasks
from recallfront.models.configs.explain import near_first, retold, shown, told
from recallfront.sweeps.tasks.base import Task

_NO_TASKS = ("base", "registry")
_DEFAULT = "mqar"  # the task of a specification that names none
_added: dict[str, type[Task]] = {}


def names() -> tuple[str, ...]:
    """The names of all tasks, sorted."""
    return tuple(sorted({*_built_in(), *_added}))


def find(name: str) -> type[Task]:
    """The task of this name.

    Raises:
        KeyError: there is none.
    """
    return _added[name] if name in _added else _in_file(name)


def register(task: type[Task]) -> None:
    """Add a task from outside the package for the rest of this process.

    Raises:
        ValueError: it has no name of its own, lacks a method, or there is a task of that name.
    """
    name = _name_of(task)
    if name is None or task.model_fields["name"].default != name:
        raise ValueError(f"task {task.__name__}: write `name: Literal['mine'] = 'mine'`, with its own name")
    if task.__abstractmethods__:
        raise ValueError(f"task {name!r}: lacks {', '.join(sorted(task.__abstractmethods__))}")
    if name in _built_in() or _added.get(name, task) is not task:
        raise ValueError(f"task {task.__name__}: there is a task {name!r} already")
    _added[name] = task


def unregister(name: str) -> None:
    """Take an added task out again."""
    _added.pop(name, None)


def tasks_of(module: ModuleType) -> Iterator[type[Task]]:
    """The tasks that a module defines: its own classes that have a name."""
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__:
            if _name_of(value) is not None:
                yield value


def parse_task(values: Any) -> Any:
    """The task that a mapping describes, by default MQAR; a task passes through.

    Raises:
        ValidationError: names the key, the value and what is allowed.
    """
    if not isinstance(values, dict):
        return values
    name = values.get("name", _DEFAULT)
    if name not in names():
        raise told(("name",), name, f"={shown(name)}: must be one of {near_first(name, names())}")
    task = find(name)
    try:
        return task.model_validate(values)
    except ValidationError as error:
        raise retold(error, task) from None


class _Schema:
    """The JSON schema of a task: that of the built-in ones, told apart by their name."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        known = tuple(find(name) for name in names())
        if len(known) == 1:
            return handler(known[0].__pydantic_core_schema__)
        union: Any = reduce(or_, known)
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[union, Field(discriminator="name")])
        return handler(adapter.core_schema)


TaskConfig = Annotated[SerializeAsAny[Task], BeforeValidator(parse_task), _Schema()]


@cache
def _built_in() -> frozenset[str]:
    return frozenset(found.name for found in pkgutil.iter_modules(tasks.__path__)) - set(_NO_TASKS)


@cache
def _in_file(name: str) -> type[Task]:
    if name not in _built_in():
        raise KeyError(name)
    module = import_module(f"recallfront.sweeps.tasks.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Task) and _name_of(value) == name
    )


def _name_of(task: type[Task]) -> str | None:
    """The literal that a task is called."""
    literal = get_args(task.model_fields["name"].annotation)
    return str(literal[0]) if literal else None
