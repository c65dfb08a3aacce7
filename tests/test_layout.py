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

ROOT = Path(__file__).parents[1]
# each may import those before it
AREAS = ("kernels", "models", "sweeps", "platform", "dashboards", "benchmarks")
FLOORS = (  # of platform/: a room may import those on the floors below
    {"errors"},
    {"home", "metrics", "pareto"},
    {"plugins"},
    {"results", "lineage"},
    {"trial", "search", "tracking"},
    {"workers", "front", "cluster"},
    {"front.pictures"},
    {"sweep"},
    {"rerun", "doctor", "evaluation"},
    {"status", "keeping"},
)
HEAVY = ("ray", "mlflow", "deepspeed", "datasets", "optuna")
# What is kept out of the driver's start besides: an import of these may stand inside a function.
LATE = {
    *HEAVY,
    "torch",
    "safetensors",  # its functions for torch import torch
    "numpy",
    "scipy",
    "triton",
    "transformers",
    "huggingface_hub",
    "plotly",
    "matplotlib",
    "rich",
    "pandas",
    "fsspec",
    "playwright",
    "fastapi",
    "starlette",
} | {
    *("anyio", "jinja2", "requests", "psutil", "fla", "jax", "peft", "pyarrow", "tokenizers", "lm_eval"),
    "IPython",  # is there in a notebook only
    "pynvml",  # is there with a GPU only
}


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
    """But for the public names of the platform, which are loaded on first use."""
    files = [file for area in (*AREAS, "recallfront") for file in sources(area)]
    graph = {name_of(file): set(imports(file)) for file in files if file != ROOT / "recallfront/platform.py"}
    assert {"recallfront.cli", "recallfront.terminal", "recallfront.commands.sweeps"} <= graph.keys()
    TopologicalSorter({own: names & graph.keys() - {own} for own, names in graph.items()}).prepare()


def name_of(file: Path) -> str:
    path = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return path if path.partition(".")[0] == "recallfront" else f"recallfront.{path}"


def at_import(tree: ast.AST) -> Iterator[str]:
    """What is imported when the module is: not within functions, nor for a type checker alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(node)


def heavy(name: str, tops: dict[str, set[str]]) -> set[str]:
    """The libraries of `LATE` that importing `name` brings along, directly or not."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name.partition(".")[0] in LATE:
            found.add(name.partition(".")[0])
        parts = name.split(".")
        for known in {".".join(parts[:depth]) for depth in range(2, len(parts) + 1)} & tops.keys() - seen:
            seen.add(known)
            waiting += tops[known]
    return found


def within_functions(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that stand in functions; one in a nested function comes once for each that holds it."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom))


def test_imports_within_functions_keep_a_heavy_library_out_of_the_start() -> None:
    trees = {
        name_of(file): ast.parse(file.read_text())
        for area in [*AREAS, "recallfront"]
        for file in sources(area)
    }
    del trees["recallfront.__main__"]  # it says at its top why
    tops = {name: set(at_import(tree)) for name, tree in trees.items()}
    idle = []
    for module, tree in trees.items():
        own = heavy(module, tops)
        for node in within_functions(tree):
            names = list(at_import(ast.Module([node], [])))
            if not set().union(*(heavy(name, tops) for name in names)) - own:
                idle.append((module, node.lineno, names[0]))
    assert not idle, "these belong at the top of the file"


def test_a_file_with_imports_within_functions_says_why_at_its_top() -> None:
    """That something is imported elsewhere, in its docstring or in a comment above its own imports."""
    silent = []
    for area in (*AREAS, "recallfront"):
        for file in sources(area):
            text = file.read_text()
            tree = ast.parse(text)
            late = [node.lineno for node in within_functions(tree)]
            code = min((node.lineno for node in tree.body if not isinstance(node, ast.Expr)), default=1)
            if late and not re.search(r"\bimported\b", "\n".join(text.splitlines()[: code - 1])):
                silent.append(f"{file.relative_to(ROOT)}:{min(late)}")
    assert not silent


def types_named(tree: ast.Module) -> Iterator[str]:
    """Public classes and type aliases that a module itself defines: `Name = module.Name` gives another's again."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            given = node.value.attr if isinstance(node.value, ast.Attribute) else None
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            # a capital and small letters: a type variable is one capital, a constant is all capitals
            yield from (name for name in names if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name) and name != given)


def test_a_type_s_name_is_one_module_s() -> None:
    """One name, one meaning: no two modules define public classes or type aliases of one name."""
    places: dict[str, list[Path]] = {}
    for area in (*AREAS, "recallfront"):
        for file in sources(area):
            for name in types_named(ast.parse(file.read_text())):
                places.setdefault(name, []).append(file.relative_to(ROOT))
    assert len(places) > 100
    assert not {name: files for name, files in places.items() if len(files) > 1}


def test_files_are_short() -> None:
    """In lines: the median of the areas is at most 120, and no file, a test or not, has more than its limit."""
    lengths = {
        file: len(file.read_text().splitlines())
        for area in (*AREAS, "recallfront", "tests")
        for file in sources(area)
    }
    of_areas = sorted(length for file, length in lengths.items() if ROOT / "tests" not in file.parents)
    assert of_areas[len(of_areas) // 2] <= 120
    kernels = ROOT / "kernels"  # what Triton compiles is long
    assert not {
        str(file.relative_to(ROOT)): length
        for file, length in lengths.items()
        if length > (520 if kernels in file.parents else 400)
    }


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


def test_a_trial_s_process_starts_without_what_no_trial_needs() -> None:
    """MLflow, which DeepSpeed's autotuner imports, and PyTorch's compiler, which its decorators import."""
    script = (
        "import sys; from recallfront.models import build; import recallfront.platform.trial.body;"
        "from recallfront.platform.trial.engine import prepare_process;"
        "prepare_process(threads=1, use_gpu=False);"
        "print([m for m in ('mlflow', 'torch._dynamo', 'ray') if m in sys.modules], 'deepspeed' in sys.modules);"
        "import mlflow; print(mlflow.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.splitlines() == ["[] True", "mlflow"]


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
        "recallfront.platform.front.pictures.notebook",
        "recallfront.platform.rerun",
        "recallfront.platform.front.pick",
    ]


def test_tracked_files_name_no_place_of_one_machine() -> None:
    """Neither in their text nor as the target of a link, which is relative."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    place = re.compile(r"(?<![\w.$}/])/(?:work|home|root|Users|mnt)/[a-z]\w*", re.ASCII)
    found = []
    for name in filter(None, tracked.stdout.split("\0")):
        file = ROOT / name
        if file.is_symlink():
            found += [(name, str(file.readlink()))] if file.readlink().is_absolute() else []
            continue
        if not file.is_file() or file == Path(__file__):
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
