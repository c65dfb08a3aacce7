"""Files of tests that take long are run again when something that they test has changed, and a share of the others.

A plug-in of pytest; every test runs unless `--share` says less, as `make test` does. `passed.json` says how long such a
file took and of which inputs it is true that it passed: the code areas that it may import, what tests share, the
packages. Attacks run each time.
"""

import hashlib
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[1]
TABLE: Final = ROOT / "tests" / "passed.json"
# each may import those before it
AREAS: Final = ("kernels", "models", "sweeps", "platform", "recallfront", "dashboards", "benchmarks")
QUIET: Final = ("kernels", "models", "sweeps")
# inputs of the tests that name them
BESIDE: Final = ("docs", "deploy", "README.md", "Dockerfile", ".dockerignore")
ALWAYS: Final = "tests/attack/"  # its files are never left out
LONG: Final = 4.0  # seconds that the tests of a file take together
# a test is ended after so many times what the longest of its file took: machines differ, and others use them too
SLACK: Final = 6
LEAST: Final = 240  # seconds, and never before: a quick one waits for Ray or a compiler beside others
# of a file that the table does not have, as all of it took less than `LONG`
QUICK: Final = 120  # seconds
UNKNOWN: Final = 600  # seconds for a slow test, or an attack
ON_GPU: Final = 1800  # seconds: it compiles, and the table is written without one
# where one of these is set, tests go on for as long as it says
LASTING: Final = ("ATTACK_SECONDS", "OUTAGE_SECONDS", "RECALLFRONT_OUTAGE")
FAILED: Final = "failed"  # in the place of the inputs


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tests that passed")
    group.addoption(
        "--share",
        type=float,
        default=1.0,
        help="of the time of long files without changes: what is run, 0 to 1",
    )
    group.addoption("--share-seed", type=int, default=0, help="says which ones")
    group.addoption("--record", action="store_true", help=f"write the long files that pass to {TABLE.name}")


def key_of(item: pytest.Item) -> str:
    """A test's file; those of its tests that run alone are counted apart, as they run at another time."""
    name = item.path.relative_to(ROOT).as_posix()
    return f"{name} alone" if item.get_closest_marker("alone") else name


def pytest_configure(config: pytest.Config) -> None:
    if config.option.record and not hasattr(config, "workerinput"):
        part = config.option.keyword or config.option.share < 1 or any("::" in name for name in config.args)
        if part or config.option.markexpr not in ("alone", "not alone", ""):
            raise pytest.UsageError("--record takes whole files: without -k, with --share 1")
        config.pluginmanager.register(_Recorder())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left = left_out(config.option.share, config.option.share_seed)
    config.hook.pytest_deselected(items=[item for item in items if key_of(item) in left])
    items[:] = [item for item in items if key_of(item) not in left]
    taken = _table()
    for item in items:
        longest = taken.get(key_of(item), {}).get("longest")
        marks = {mark.name for mark in item.iter_markers()}
        item.add_marker(pytest.mark.timeout(time_limit(longest, marks)))


def time_limit(longest: float | None, marks: Collection[str] = ()) -> float:
    """The seconds after which a test hangs; 0 is no limit.

    Args:
        longest: what the longest test of its file took, in seconds, None if that is not known.
        marks: of the test.
    """
    if any(name in os.environ for name in LASTING):
        return 0
    if "gpu" in marks:
        return ON_GPU
    if longest is None:
        return UNKNOWN if {"slow", "attack"} & set(marks) else QUICK
    return max(LEAST, SLACK * longest)


def left_out(share: float, seed: int) -> dict[str, int]:
    """The seconds of the files that are not run: none that has changed, and of the others none that is drawn."""
    unchanged = {
        key: passed["seconds"]
        for key, passed in _table().items()
        if _may_be_left_out(key) and passed["inputs"] == inputs(key)
    }
    drawn = draw(unchanged, share, seed)
    return {key: seconds for key, seconds in unchanged.items() if key not in drawn}


def draw(seconds: Mapping[str, int], share: float, seed: int) -> set[str]:
    """The files that run although nothing has changed; the same in all processes.

    They are taken in a random order, one at least, where they fit into that share of the time that all would take: by
    number alone, a tenth of the files may take a third of it.
    """
    # on two processors; those that run alone have both
    takes = {key: seconds[key] * (2 if key.endswith(" alone") else 1) for key in sorted(seconds)}
    left, drawn = share * sum(takes.values()), set[str]()
    for key in random.Random(seed).sample(list(takes), len(takes)):
        if share > 0 and (takes[key] <= left or not drawn):
            drawn.add(key)
            left -= takes[key]
    return drawn


def _name(key: str) -> str:
    return key.removesuffix(" alone")


def _file(key: str) -> Path:
    return ROOT / _name(key)


def _may_be_left_out(key: str) -> bool:
    return not key.startswith(ALWAYS) and _file(key).exists()


def _test_files() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]


def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}


@cache
def inputs(key: str) -> str:
    """The digest of everything that the tests of a file may depend on."""
    file = _file(key)
    text = file.read_text()
    shared = [path for path in _files("tests") if not path.name.startswith("test_") and path != TABLE]
    beside = [name for name in BESIDE if name in text]
    own = [path for name in (*areas(file), *beside) for path in _files(name)]
    digest = hashlib.sha256()
    for path in (*own, *shared, file, ROOT / "pyproject.toml", ROOT / "constraints.txt"):
        digest.update(f"{path.relative_to(ROOT).as_posix()} {_digest(path)}\n".encode())
    return digest.hexdigest()[:16]


def areas(file: Path) -> tuple[str, ...]:
    """The code areas that a file's tests may reach: all up to the last that they, or what they share, name.

    Those of kernels/, models/ and sweeps/ start no command; others may, and a command reaches every area.
    """
    top = file.relative_to(ROOT / "tests").parts[0]
    if top not in QUIET:
        return AREAS
    # that of tests/ itself orders tests and makes records of sweeps, which these need not
    conftests = [folder / "conftest.py" for folder in file.parents if ROOT / "tests" in folder.parents]
    named, seen = {top}, {file}
    waiting = [file, *(path for path in conftests if path.exists())]
    while waiting:
        text = waiting.pop().read_text()
        named |= {name if name in AREAS else AREAS[-1] for name in re.findall(r"recallfront\.(\w+)", text)}
        found = {
            ROOT / f"{name.replace('.', '/')}.py" for name in re.findall(r"from (tests\.[\w.]+) import", text)
        }
        # of `from tests.platform.trial import trials` the second word is the module
        for package, name in re.findall(r"from (tests[\w.]*) import (\w+)", text):
            found.add(ROOT / package.replace(".", "/") / f"{name}.py")
        waiting += [path for path in found - seen if path.exists()]
        seen |= found
    return AREAS[: 1 + max(AREAS.index(name) for name in named)]


@cache
def _files(name: str) -> tuple[Path, ...]:
    """A folder's files in order, without what Python and the tests leave there; or the one file of this name."""
    if (ROOT / name).is_file():
        return (ROOT / name,)
    # of recallfront/ the links to the areas are not followed
    return tuple(
        sorted(
            path for path in (ROOT / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        )
    )


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Recorder:
    """Adds up what the tests of each file took, in the process that hears of all of them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        # of each file the longest phases of tests: any of them may be the one that sets up what they share
        self.longest: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.failed: set[str] = set()
        # as they are now: what is changed while the tests run is not what passed
        self.inputs = {file: inputs(file) for file in _test_files()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        key = f"{report.location[0]}{' alone' if 'alone' in report.keywords else ''}"
        self.seconds[key] += report.duration
        self.longest[key][report.when] = max(self.longest[key][report.when], report.duration)
        if report.failed:
            self.failed.add(key)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        table = _table()
        for key, seconds in self.seconds.items():
            before = table.pop(key, None)
            if key in self.failed:
                if before is not None:
                    table[key] = before | {"inputs": FAILED}  # it has its time still
            elif seconds >= LONG:
                longest = round(sum(self.longest[key].values()))
                table[key] = {
                    "seconds": round(seconds),
                    "longest": longest,
                    "inputs": self.inputs[_name(key)],
                }
        kept = {key: table[key] for key in sorted(table) if _may_be_left_out(key)}
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in kept.items())
        TABLE.write_text(f"{{\n{lines}\n}}\n")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    left = left_out(config.option.share, config.option.share_seed)
    if left:
        told = f"{len(left)} long files of tests, {sum(left.values())} s, passed as they are now and were left out"
        terminalreporter.write_line(f"{told}; `make test SHARE=1` runs them")
