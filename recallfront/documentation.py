"""The page of the public names: `python -m recallfront.documentation > docs/api.md`.

Signatures and texts are taken from the sources: what a docstring says is the only place where it is said.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from recallfront.kernels.gpu.report import operators

_INTRODUCTION = """\
# The public names

`python -m recallfront.documentation` writes this page from the docstrings. In shapes, B is the batch, T the number of
tokens, H the number of heads, and D, K, V and F the width of a head, of its keys, its values and its features. The keys
of configurations are in [specification.md](specification.md), and [models.md](models.md) shows the models at work.
"""
# Heading of a section -> the modules that users import from, each with its public names; None is its `__all__`.
_SECTIONS: dict[str, dict[str, tuple[str, ...] | None]] = {
    "Sweeps": {"platform": None, "sweeps": ("load_spec", "SpecError")},
    "Models": {
        "models": None,
        "models.configs.presets": ("preset",),
        "models.decoding.generation": ("generate", "stream"),
        "models.decoding.speculative": ("generate_speculative", "DraftHeads", "Speculation"),
        "models.decoding.draft_training": ("train_draft_heads",),
        "models.parts.draft_tree": ("DraftTree",),
        "models.pretrained.transformers_weights": ("from_transformers", "linearize"),
        "models.pretrained.hugging_face": ("save_pretrained", "from_pretrained"),
    },
    "Tasks": {"sweeps.tasks.mqar": ("mqar",)},
    "Extending": {
        "platform.plugins": ("load",),
        "models.configs.mixer": ("MixerConfig",),
        "models.mixers.base": ("Mixer",),
        "models.mixers.matrix_state": ("MatrixStateConfig", "DecayingSum"),
        "models.parts.layers": ("Drawn",),
        "sweeps.tasks.base": (
            *("Task", "StoredTask", "TaskData", "Segment", "Counts"),
            *("DrawnTask", "DrawnRows", "IGNORED"),
        ),
    },
}
_SECTION_OF_A_DOCSTRING = re.compile(r"(Args|Returns|Raises|Yields):")
_LONGEST_LINE = 100  # of a signature


def api_page() -> str:
    """The text of docs/api.md."""
    parts = [_INTRODUCTION]
    for heading, modules in _SECTIONS.items():
        parts.append(f"## {heading}")
        for module, names in modules.items():
            parts += _module(module, names)
    parts.append("## Operators")
    for operator in operators():
        parts += _module(f"kernels.{operator}.operator", None)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def public_names(module: ModuleType) -> list[str]:
    """A module's `__all__`; of a module without one, the functions that it defines."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    found = inspect.getmembers(module, inspect.isfunction)
    own = [
        (inspect.getsourcelines(value)[1], name)
        for name, value in found
        if value.__module__ == module.__name__
    ]
    return [name for _, name in sorted(own) if not name.startswith("_")]


def _module(name: str, names: tuple[str, ...] | None) -> Iterator[str]:
    module = import_module(f"recallfront.{name}")
    yield f"### recallfront.{name}"
    for public in names or public_names(module):
        yield from _entry(public, getattr(module, public))


def _entry(name: str, value: Any) -> Iterator[str]:
    yield f"#### {name}"
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        members = _members(value)
        yield f"A type: {' or '.join(members)}." if members else f"A constant: `{value!r}`."
        return
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    if isinstance(node, ast.FunctionDef):
        yield f"```python\n{_signature(node, name)}\n```"
        yield _prose(node)
    elif isinstance(node, ast.ClassDef):
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                yield f"```python\n{_signature(part, name)}\n```"
        yield _prose(node)
        if lines := list(_attributes(node)):
            yield "\n".join(lines)


def _members(alias: Any) -> list[str]:
    """The classes that an alias such as `ModelConfig` is made of."""
    if inspect.isclass(alias):
        return [f"`{alias.__name__}`"]
    return list(dict.fromkeys(name for part in getattr(alias, "__args__", ()) for name in _members(part)))


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    """A line for each public field, property and method of a class, in the order of the source."""
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            if not part.target.id.startswith("_"):
                yield f"- `{part.target.id}: {ast.unparse(part.annotation)}`"
        elif isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
            text = (ast.get_docstring(part) or "").split("\n\n")[0]
            is_property = any("property" in ast.unparse(d) for d in part.decorator_list)
            returns = f": {ast.unparse(part.returns)}" if part.returns else ""
            shown = f"{part.name}{returns}" if is_property else _one_line(part, part.name)
            yield f"- `{shown}`" + (f": {' '.join(text.split())}" if text else "")


def _signature(node: ast.FunctionDef, name: str) -> str:
    line = _one_line(node, name)
    if len(line) <= _LONGEST_LINE:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in _parameters(node)), f"){_returns(node)}"])


def _one_line(node: ast.FunctionDef, name: str) -> str:
    return f"{name}({', '.join(_parameters(node))}){_returns(node)}"


def _returns(node: ast.FunctionDef) -> str:
    return f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""


def _parameters(node: ast.FunctionDef) -> Iterator[str]:
    """Each parameter with its type and default; a method's `self` is left out."""
    own = node.args
    positional = [*own.posonlyargs, *own.args]
    defaults = [None] * (len(positional) - len(own.defaults)) + list(own.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        if argument.arg not in ("self", "cls"):
            yield _parameter(argument, default)
    if own.vararg:
        yield f"*{_parameter(own.vararg, None)}"
    elif own.kwonlyargs:
        yield "*"
    for argument, default in zip(own.kwonlyargs, own.kw_defaults, strict=True):
        yield _parameter(argument, default)
    if own.kwarg:
        yield f"**{_parameter(own.kwarg, None)}"


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{kind}" + (f" = {ast.unparse(default)}" if default is not None else "")


def _prose(node: ast.FunctionDef | ast.ClassDef) -> str:
    """A docstring as Markdown: its Args, Returns and Raises become lists."""
    shown: list[str] = []
    in_section = False
    for line in (ast.get_docstring(node) or "").splitlines():
        if heading := _SECTION_OF_A_DOCSTRING.fullmatch(line):
            in_section = True
            shown += [f"{heading[1]}:", ""]
        elif in_section and line.startswith("    "):
            starts = not line.startswith("     ")
            shown.append(f"- {line.strip()}" if starts else f"  {line.strip()}")
        else:
            in_section = in_section and not line.strip()
            shown.append(line)
    return "\n".join(shown)


if __name__ == "__main__":
    print(api_page(), end="")
