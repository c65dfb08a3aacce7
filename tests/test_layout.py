"""The house: imports run one way, importing is cheap and does nothing, and the wheel holds all of it."""

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from recallfront.sweeps.load import parse_spec

ROOT = Path(__file__).parents[1]
AREAS = (
    "kernels",
    "models",
    "sweeps",
    "platform",
    "dashboards",
    "benchmarks",
)  # each may import those before it
FLOORS = (  # of platform/: a room may import those on the floors below
    {"errors", "home", "metrics", "pareto"},
    {"results", "lineage"},
    {"trial", "search", "tracking"},
    {"workers", "front", "cluster"},
    {"front.pictures"},
    {"sweep"},
    {"rerun", "doctor"},
    {"status"},
)
HEAVY = ("ray", "mlflow", "deepspeed", "datasets", "optuna")


def sources(area: str) -> list[Path]:
    return sorted((ROOT / area).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports anywhere; of `from package import name` also package.name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("area", ["platform", "kernels"])
def test_no_package_hides_a_module_of_others(area: str) -> None:
    assert not (ROOT / area / "__init__.py").exists()


@pytest.mark.parametrize("area", AREAS)
def test_imports_run_one_way(area: str) -> None:
    assert sources(area)
    later = AREAS[AREAS.index(area) + 1 :]
    barred = re.compile(rf"recallfront\.({'|'.join((*later, 'cli', '__main__'))})\b")
    found = {(f.relative_to(ROOT), name) for f in sources(area) for name in imports(f) if barred.match(name)}
    assert not found


def room(module: str) -> str | None:
    """The room of `platform/` that a module is in: a folder or a file directly in it; pictures are one of their own."""
    parts = module.split(".")
    if parts[:2] != ["recallfront", "platform"] or len(parts) < 3:
        return None
    return "front.pictures" if parts[2:4] == ["front", "pictures"] else parts[2]


def needs() -> dict[str, set[str]]:
    """For each room of `platform/`, the others that it imports, wherever in a file the import stands."""
    found: dict[str, set[str]] = {}
    for file in sources("platform"):
        own = room("recallfront." + ".".join(file.relative_to(ROOT).with_suffix("").parts))
        assert own is not None
        others = {other for name in imports(file) if (other := room(name)) and other != own}
        found.setdefault(own, set()).update(others)
    return found


def test_rooms_of_the_platform() -> None:
    """At most 20, and each has a floor: rooms import only from floors below their own."""
    rooms = needs()
    assert len(rooms) <= 20, sorted(rooms)
    assert set(rooms) == {name for floor in FLOORS for name in floor}
    level = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    upwards = {(a, b) for a, others in rooms.items() for b in others if level[b] >= level[a]}
    assert not upwards


def test_no_import_circle_between_modules() -> None:
    graph = {}
    for area in AREAS:
        for file in sources(area):
            own = "recallfront." + ".".join(file.relative_to(ROOT).with_suffix("").parts)
            graph[own.removesuffix(".__init__")] = set(imports(file))
    TopologicalSorter({own: names & graph.keys() - {own} for own, names in graph.items()}).prepare()


@pytest.mark.parametrize("area", ["kernels", "models"])
def test_operators_and_models_need_torch_alone(area: str) -> None:
    names = {(f.name, name) for f in sources(area) for name in imports(f)}
    assert not {(f, name) for f, name in names if name.split(".")[0] in HEAVY}


@pytest.mark.parametrize("area", AREAS)
def test_areas_are_imported_by_their_full_names(area: str) -> None:
    assert not [(f, name) for f in sources(area) for name in imports(f) if name.split(".")[0] in AREAS[:3]]


@pytest.mark.parametrize("link", AREAS)
def test_the_links_are_relative(link: str) -> None:
    target = ROOT / "recallfront" / link
    assert target.is_symlink() and str(target.readlink()) == f"../{link}"


def test_importing_is_light_and_does_nothing() -> None:
    script = (
        "import logging, sys, recallfront, recallfront.models, recallfront.sweeps, recallfront.platform,"
        " recallfront.cli;"
        f"print([m for m in {HEAVY} if m in sys.modules], logging.getLogger().handlers, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded, handlers, torch = run.stdout.strip().rsplit(" ", 2)
    assert (loaded, handlers) == ("[]", "[]") and run.stderr == ""
    assert torch in ("True", "False")


def test_public_names_of_the_platform() -> None:
    import recallfront.platform as platform

    assert all(callable(getattr(platform, name)) for name in platform.__all__)
    assert all(re.search(rf"\b{name}\b", platform.__doc__ or "") for name in platform.__all__), (
        "help() lists them"
    )
    assert set(platform.__all__) <= set(dir(platform))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        platform.nothing  # noqa: B018


def test_submodules_do_not_hide_public_names_of_the_platform() -> None:
    """`front` and `rerun` are functions, and also submodules."""
    script = (
        "import recallfront.platform.front.pick, recallfront.platform.rerun;"
        "from recallfront.platform import front, rerun; from recallfront.platform.front import pick;"
        "print(front.__name__, front.__module__, rerun.__module__, pick.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == [
        "front",
        "recallfront.platform.front.front",
        "recallfront.platform.rerun",
        "recallfront.platform.front.pick",
    ]


def test_tracked_files_name_no_place_of_one_machine() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    place = re.compile(r"(?<![\w.$}/])/(?:work|home|root|Users|mnt)/[a-z]\w*", re.ASCII)
    found = []
    for name in filter(None, tracked.stdout.split("\0")):
        file = ROOT / name
        if file.is_symlink() or not file.is_file() or file == Path(__file__):
            continue
        try:
            found += [(name, match[0]) for match in place.finditer(file.read_text())]
        except UnicodeDecodeError:
            continue  # an array or a picture
    assert not found


@pytest.mark.slow
def test_the_wheel_holds_every_area(tmp_path: Path) -> None:
    copy = tmp_path / "source"  # a build leaves files beside the sources
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, copy / name
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_symlink():
                target.symlink_to(source.readlink())
            else:
                target.write_bytes(source.read_bytes())
    script = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    for area in AREAS:
        kinds = ("*.py", "*.html", "*.css", "*.js", "*.yaml")
        wanted = {
            f"recallfront/{file.relative_to(copy)}" for kind in kinds for file in (copy / area).rglob(kind)
        }
        assert wanted and not wanted - held
    assert {"recallfront/platform.py", "recallfront/cli.py", "recallfront/py.typed"} <= held
    assert "recallfront/sweeps/studies/quickstart.yaml" in held
    assert not [name for name in held if name.startswith("tests/")]


def test_the_readme_shows_what_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert parse_spec(example, source="README.md").search.trials == 20
