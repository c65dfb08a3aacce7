"""What each kernel compiles to, as committed tables: `kernels/<operator>/compiled.csv`.

A row holds what one configuration uses on one chip, and a digest of all that this depends on: the sources of the
kernel and of what it calls, the constants it names, its arguments, the options and Triton's version. While the digest
stands the row stands, so that only what has changed need be compiled. `make kernels-report` writes the tables.

Triton is imported where it is first used, since not every machine has it.
"""

import ast
import csv
import hashlib
import importlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from recallfront.kernels.gpu.compiled import SHARED_LIMITS, Launch, Resources, arguments, resources

_KERNELS = Path(__file__).parents[1]
_FIGURES = ("registers", "spills", "stack", "shared")
_COLUMNS = ("kernel", "chip", "warps", "stages", *_FIGURES, "digest", "configuration")


@dataclass(frozen=True)
class Compilation:
    """One configuration of a kernel for one chip. digest: of all that its compiled form depends on."""

    launch: Launch
    architecture: int
    digest: str


@cache
def sources(kernel: Any) -> tuple[tuple[str, str], ...]:
    """The source of a kernel and of all that it calls, and every constant that they name, by full name."""
    import triton

    found: dict[str, str] = {}
    waiting = [kernel]
    while waiting:
        function = waiting.pop()
        path = f"{function.fn.__module__}.{function.fn.__qualname__}"
        if path in found:
            continue
        found[path] = "".join(function.raw_src)
        for name, value in _named(function):
            if isinstance(value, triton.runtime.JITFunction):
                waiting.append(value)
            elif isinstance(value, triton.language.constexpr):
                found[f"{path}: {name}"] = repr(value.value)
            elif isinstance(value, int | float | str):
                found[f"{path}: {name}"] = repr(value)
    return tuple(sorted(found.items()))


def _named(function: Any) -> Iterator[tuple[str, Any]]:
    """What a function names: globals, and attributes of modules that are not Triton's own."""
    nodes = list(ast.walk(ast.parse(function.src)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    for name in sorted(names & function.fn.__globals__.keys()):
        value = function.fn.__globals__[name]
        if isinstance(value, ModuleType) and not value.__name__.startswith("triton"):
            yield from ((f"{name}.{field}", getattr(value, field, None)) for field in sorted(attributes))
        else:
            yield name, value


def digest(launch: Launch, architecture: int) -> str:
    """16 hexadecimal digits that change with whatever may change the compiled kernel."""
    import triton

    parts = (triton.__version__, architecture, sources(launch.kernel), *arguments(launch))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@cache
def compilations(operator: str) -> tuple[Compilation, ...]:
    """Every configuration in which the kernels of an operator may be launched, for each of its chips."""
    launches: list[Launch] = importlib.import_module(f"recallfront.kernels.{operator}.triton").launches()
    return tuple(
        Compilation(launch, architecture, digest(launch, architecture))
        for launch in launches
        for architecture in launch.architectures
    )


def table_path(operator: str) -> Path:
    """Where the table of an operator lies."""
    return _KERNELS / operator / "compiled.csv"


def read_table(path: Path) -> dict[str, Resources]:
    """What each configuration uses, by digest; empty if there is no table."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {
            row["digest"]: Resources(**{name: int(row[name]) for name in _FIGURES})
            for row in csv.DictReader(file)
        }


def write_table(path: Path, wanted: Sequence[Compilation], known: Mapping[str, Resources]) -> None:
    """A row for each of the compilations whose figures are known, in their order."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for each in wanted:
            if each.digest in known:
                launch, found = each.launch, known[each.digest]
                figures = [getattr(found, name) for name in _FIGURES]
                how = [launch.name, f"sm_{each.architecture}", launch.num_warps, launch.num_stages]
                writer.writerow([*how, *figures, each.digest, launch.described()])


def complaint(found: Resources, architecture: int) -> str:
    """What is wrong with a compiled kernel, or nothing."""
    limit = SHARED_LIMITS[architecture]
    wrong = ["spills"] if found.spills or found.stack else []
    return ", ".join(wrong + ([f"over {limit} bytes shared"] if found.shared > limit else []))


def audit(
    wanted: Sequence[Compilation], known: Mapping[str, Resources], share: float, seed: int
) -> tuple[list[str], list[Compilation]]:
    """Check every configuration, by its row if it has one: what is wrong, and which were compiled.

    Those without a row are compiled, and of the others a random `share` (at least one), whose rows must hold what
    the compiler says now.
    """
    listed = [each for each in wanted if each.digest in known]
    drawn = random.Random(seed).sample(listed, min(len(listed), max(1, round(share * len(listed)))))
    compiled = [each for each in wanted if each.digest not in known] + drawn
    now = {each.digest: resources(each.launch, each.architecture) for each in compiled}
    wrong = []
    for each in wanted:
        found = now.get(each.digest) or known[each.digest]
        name = f"{each.launch.name} on sm_{each.architecture} {each.launch.described()}"
        if reason := complaint(found, each.architecture):
            wrong.append(f"{name}: {reason}")
        if found != known.get(each.digest, found):
            wrong.append(f"{name}: the table has {known[each.digest]}, the compiler {found}")
    return wrong, compiled
