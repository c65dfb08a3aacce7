"""The version of the code that decides a trial's figures, found by following its imports."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import recallfront
from recallfront.platform.plugins import in_use

_ROOTS: Final = ("platform/trial/*.py", "platform/workers/train_job.py")
# Areas in which imports are followed; the rest of the platform moves figures about and computes none.
_FOLLOWED: Final = ("kernels", "models", "sweeps")


def code_version() -> str:
    """16 hex digits over the path and content of the sources that a trial runs, and over the plug-ins in use.

    Sources are read once a process, as the modules are: an edit meanwhile changes neither.
    """
    own, plugins = _own_version(), in_use()
    if not plugins:
        return own
    added = "".join(
        f"\0{plugin.name} {plugin.digest}" for plugin in sorted(plugins, key=lambda one: one.name)
    )
    return hashlib.sha256((own + added).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _own_version() -> str:
    found = hashlib.sha256()
    for name, content in trial_sources(Path(recallfront.__file__).parent).items():
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:16]


def trial_sources(package: Path) -> dict[str, bytes]:
    """What a trial of the package in this folder runs: name in the package -> content, in the order of the names.

    These are the trial's body, and of kernels, models and sweeps whatever it imports, directly or not. A module that
    is imported by a computed name stands for all that the name can be: `f"recallfront.models.mixers.{name}"` for every
    file of that folder.
    """
    found: dict[str, bytes] = {}
    waiting = [name for pattern in _ROOTS for name in _matching(package, pattern)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = (package / name).read_bytes()
            waiting += _imported(package, ast.parse(found[name]))
    return dict(sorted(found.items()))


def _imported(package: Path, tree: ast.Module) -> Iterator[str]:
    """Files of the followed areas that a module imports, wherever in it the import stands."""
    for node in _run(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(package, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from _files(package, node.module)
            for alias in node.names:
                yield from _files(package, _home(package, node.module, alias.name))
        elif isinstance(node, ast.JoinedStr):
            yield from _files(package, _pattern(node))


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module, without what only a type checker reads."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


@lru_cache(maxsize=4096)
def _home(package: Path, module: str, name: str) -> str:
    """The module that `name` of a package comes from: the package's `__init__.py` may load it on first use."""
    for initial in _files(package, module):
        if initial.endswith("__init__.py"):
            for node in ast.walk(ast.parse((package / initial).read_bytes())):
                if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
                    return str(node.module)
    return f"{module}.{name}"


def _pattern(text: ast.JoinedStr) -> str:
    """An f-string as a pattern that matches whatever its fields can become."""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in text.values)


def _files(package: Path, module: str) -> Iterable[str]:
    """Files that a dotted name or pattern stands for, within the followed areas; its packages' own included."""
    parts = module.split(".")
    if len(parts) < 2 or parts[0] != "recallfront" or parts[1] not in _FOLLOWED:
        return
    for depth in range(2, len(parts) + 1):
        place = "/".join(parts[1:depth])
        yield from _matching(package, f"{place}/__init__.py")
    if len(parts) > 2:
        yield from _matching(package, f"{'/'.join(parts[1:])}.py")


@lru_cache(maxsize=4096)
def _matching(package: Path, pattern: str) -> tuple[str, ...]:
    """Files of the package that match, by their names in it, which are the same in a checkout and a wheel."""
    area, _, rest = pattern.partition("/")
    root = (package / area).resolve()  # a link in a checkout
    # editors lock files by links to nowhere
    return tuple(f"{area}/{path.relative_to(root).as_posix()}" for path in root.glob(rest) if path.is_file())
