"""The exact set of packages: complete, allowed by pyproject.toml, and what make installs."""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = dict(line.split("==") for line in LINES)
LEFT_TO_TORCH = "triton"
UNTESTED = {"lm-eval"}  # another project's tasks: nothing of them runs in these tests


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for, extras and developers' packages included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    names = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    names += [name for extra, asked in extras.items() if extra not in UNTESTED for name in asked]
    return [asked for asked in map(Requirement, names) if asked.name != LEFT_TO_TORCH]


def test_each_line_is_a_name_and_a_version() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line) for line in LINES), LINES
    assert sorted(LINES) == LINES and len(PINS) == len(LINES)


def test_the_set_is_one_that_pyproject_allows() -> None:
    pinned = {asked.name: PINS.get(canonicalize_name(asked.name)) for asked in wanted()}
    assert not [name for name, version in pinned.items() if version is None], "run make lock"
    assert not [a for a in wanted() if not a.specifier.contains(PINS[canonicalize_name(a.name)])]


def test_what_a_package_needs_is_in_the_set_as_well() -> None:
    """Of the packages that are installed as the set says, nothing that they ask for is missing, nor another version."""
    waiting, seen = wanted(), set()
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        if found.version.partition("+")[0] != PINS.get(name):
            continue  # another set, as that of LOCK=latest
        for inner in map(Requirement, found.requires or []):
            here = [{"extra": extra} for extra in ("", *asked.extras)]
            if inner.marker is not None and not any(map(inner.marker.evaluate, here)):
                continue
            key = (canonicalize_name(inner.name), frozenset(inner.extras))
            if key[0] == LEFT_TO_TORCH or key in seen:
                continue
            assert key[0] in PINS, f"{name} needs {inner}: run make lock"
            assert inner.specifier.contains(PINS[key[0]], prereleases=True), f"{name} needs {inner}"
            seen.add(key)
            waiting.append(inner)
    assert len(seen) > 50 or distribution("ray").version != PINS["ray"]


@pytest.mark.parametrize("target", ["setup", "demo"])
def test_make_installs_the_set_unless_it_is_to_try_a_newer_one(target: str, tmp_path: Path) -> None:
    def commands(*arguments: str) -> str:
        command = ["make", "--dry-run", "--always-make", "--no-print-directory", target, *arguments]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    exact, latest = commands(), commands("LOCK=latest")
    assert ".venv/bin/python -m pip install" in exact and "--constraint constraints.txt --editable ." in exact
    assert ".venv-latest/bin/python -m pip install" in latest and "--constraint" not in latest


def test_the_set_is_written_with_all_that_the_image_may_install() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "lock"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "pip install --quiet --editable .[postgres,s3,gpu]\n" in told
    assert {"fla-core", "flash-linear-attention", "nvidia-ml-py"} <= PINS.keys()
