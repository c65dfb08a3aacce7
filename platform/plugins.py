"""Plug-ins: mixers and tasks from outside the package, in installed packages or in single files.

An installed package names them by entry points of the groups in `GROUPS`; a file is named on the command line. A
specification alone never imports code: it can only name what a plug-in that was loaded has registered.
"""

import hashlib
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from recallfront.models.configs.frozen import Frozen
from recallfront.models.configs.mixer import MixerConfig
from recallfront.models.mixers import registry as mixers
from recallfront.platform.errors import UsageError, one_line, refuse_secrets
from recallfront.platform.home import write_whole
from recallfront.platform.home.vault import fetch_file, keep_file
from recallfront.sweeps.tasks import registry as tasks
from recallfront.sweeps.tasks.base import Task

GROUPS: Final = ("recallfront.mixers", "recallfront.tasks")


class Plugin(Frozen):
    """A plug-in as lineage tells it."""

    name: str  # of the package, or the file's without `.py`
    version: str | None = None  # of the package; None: a file
    digest: str  # 16 hex digits over the sources
    mixers: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = f"file {self.name}.py" if self.version is None else f"package {self.name} {self.version}"
        return f"{what} ({self.digest})"


@dataclass(frozen=True)
class _Loaded:
    plugin: Plugin
    path: Path | None  # of a file
    source: bytes  # what of the file was run
    roots: frozenset[str]  # of the names of its modules


_loaded: dict[str, _Loaded] = {}
_used: list[str] = []  # names of those that the sweep or rerun of this process uses


def load(files: Iterable[Path | str] = ()) -> tuple[Plugin, ...]:
    """Load every installed plug-in and these files -> all that are loaded. What is loaded already stays.

    Raises:
        UsageError: one cannot be loaded, or defines a mixer or task whose name is taken, or two files have one name;
            names the plug-in.
    """
    for name in sorted(_installed()):
        load_installed(name)
    given: dict[str, tuple[Path, Plugin]] = {}
    for path in map(Path, files):
        plugin = load_file(path)
        first, known = given.setdefault(plugin.name, (path, plugin))
        if known != plugin:
            raise UsageError(f"plug-ins {str(first)!r} and {str(path)!r}: have the same name; rename one")
    return tuple(loaded.plugin for loaded in _loaded.values())


def load_file(path: Path) -> Plugin:
    """Load a plug-in from a file, in the place of one of the same name that had another content.

    Raises:
        UsageError: as `load`.
    """
    name = path.stem
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"plug-in {str(path)!r}: cannot be read: {error.strerror}") from None
    before = _loaded.get(name)
    if before is not None and before.source == source:
        return before.plugin
    if before is not None and before.path is None:
        raise UsageError(f"plug-in {str(path)!r}: the installed package {name} is a plug-in of this name")
    if path.suffix != ".py":
        raise UsageError(f"plug-in {str(path)!r}: must be a Python file, such as my_mixer.py")
    try:
        text = source.decode()
    except UnicodeDecodeError:
        raise UsageError(f"plug-in {str(path)!r}: must be UTF-8") from None
    refuse_secrets(f"plug-in {str(path)!r}", text, is_code=True)
    if before is not None:
        _take_out(before.plugin)
    found = _run(_module_of(name), path, source)
    plugin = _add(name, None, hashlib.sha256(source).hexdigest()[:16], found, str(path))
    _loaded[name] = _Loaded(plugin, path, source, frozenset({_module_of(name)}))
    return plugin


def load_installed(name: str) -> Plugin:
    """Load the plug-in of an installed package.

    Raises:
        UsageError: as `load`, or there is no such package.
    """
    if name in _loaded:
        return _loaded[name].plugin
    points = _installed().get(name)
    if points is None:
        raise UsageError(f"plug-in {name}: no installed package of this name has mixers or tasks")
    version = points[0].dist.version if points[0].dist is not None else "unknown"
    found: list[type] = []
    sources = hashlib.sha256()
    for point in points:
        try:
            value = point.load()
            found += _defined(value) if isinstance(value, ModuleType) else [value]
        except (Exception, SystemExit) as error:  # it is not our code
            raise UsageError(
                f"plug-in {name} {version}: {point.value} cannot be loaded: {_said(error)}"
            ) from None
    roots = frozenset(point.module.partition(".")[0] for point in points)
    for root in sorted(roots):
        for file, content in _sources_of(sys.modules[root]):
            sources.update(f"{root}/{file}\0{len(content)}\0".encode() + content)
    plugin = _add(name, version, sources.hexdigest()[:16], found, f"{name} {version}")
    _loaded[name] = _Loaded(plugin, None, b"", roots)
    return plugin


def used_by(configuration: Mapping[str, Any]) -> tuple[Plugin, ...]:
    """The loaded plug-ins whose mixers or task the JSON of a sweep or a trial names."""
    wanted = set(_names(configuration)) | {str(configuration.get("task", {}).get("name"))}
    plugins = [loaded.plugin for _, loaded in sorted(_loaded.items())]
    return tuple(plugin for plugin in plugins if wanted & {*plugin.mixers, *plugin.tasks})


def use(plugins: Iterable[Plugin]) -> None:
    """Say which plug-ins the sweep or rerun of this process uses: they are part of its code version and lineage."""
    _used[:] = [plugin.name for plugin in plugins]


def in_use() -> tuple[Plugin, ...]:
    """What `use` was last told."""
    return tuple(_loaded[name].plugin for name in _used)


def sources_in_use() -> dict[str, str]:
    """The files among the plug-ins in use: name -> text."""
    used = [_loaded[name] for name in _used]
    return {f"{one.plugin.name}.py": one.source.decode() for one in used if one.path is not None}


def files_in_use() -> list[Path]:
    """Where the files among the plug-ins in use were read from."""
    return [path.absolute() for path in (_loaded[name].path for name in _used) if path is not None]


def ship(home: Path) -> dict[str, str | None]:
    """Put the files in use where other processes of this home find them -> name: path in it, None for a package."""
    places: dict[str, str | None] = {}
    for name in _used:
        one, places[name] = _loaded[name], None
        if one.path is not None:
            path = home / "plugins" / one.plugin.digest / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_whole(path, one.source.decode())
            keep_file(path)
            places[name] = path.relative_to(home).as_posix()
    return places


def receive(places: Mapping[str, str | None], home: Path) -> None:
    """Load and use, in another process, what `ship` told of; that it is the same the code version tells.

    Raises:
        UsageError: one cannot be loaded here.
    """
    for path in filter(None, places.values()):
        if not (home / path).exists():
            fetch_file(home / path)
    use([load_installed(name) if path is None else load_file(home / path) for name, path in places.items()])


def require(needed: Iterable[Plugin], run: str) -> None:
    """Use just the plug-ins that a run had.

    Raises:
        UsageError: one is not loaded, or is not what it was then.
    """
    for plugin in needed:
        here = _loaded.get(plugin.name)
        if here is None:
            how = (
                f"give --plugin {plugin.name}.py; the run keeps it as artifact lineage/plugins/{plugin.name}.py"
                if plugin.version is None
                else f"install {plugin.name}=={plugin.version}"
            )
            raise UsageError(f"run {run} needs the plug-in {plugin}: {how}")
        if here.plugin.digest != plugin.digest:
            how = (
                f"give the file that the run keeps as artifact lineage/plugins/{plugin.name}.py"
                if plugin.version is None
                else f"install {plugin.name}=={plugin.version} as it was"
            )
            raise UsageError(f"run {run} had the plug-in {plugin}, which is now {here.plugin}: {how}")
    use(_loaded[plugin.name].plugin for plugin in needed)


def blame(error: BaseException) -> str | None:
    """What to say of an error in a loaded plug-in's code, or in a method of what it defines; None if in neither."""
    frames = [*traceback.walk_tb(error.__traceback__)][::-1]
    code = [(str(frame.f_globals.get("__name__")), frame, line) for frame, line in frames]
    methods = [(type(frame.f_locals.get("self")).__module__, frame, line) for frame, line in frames]
    for module, frame, line in (*code, *methods):
        for one in _loaded.values():
            if module.partition(".")[0] in one.roots:
                where = f"{frame.f_code.co_name} (line {line} of {Path(frame.f_code.co_filename).name})"
                return f"plug-in {one.plugin}: {where} failed: {_said(error)}"
    return None


def installed() -> tuple[str, ...]:
    """The names of the installed packages that have plug-ins."""
    return tuple(sorted(_installed()))


def _installed() -> dict[str, list[EntryPoint]]:
    """Entry points of our groups by the package's name; a package that is found twice counts once."""
    found: defaultdict[str, dict[tuple[str, str, str], EntryPoint]] = defaultdict(dict)
    for group in GROUPS:
        for point in entry_points(group=group):
            name = point.dist.name if point.dist is not None else point.name
            found[name].setdefault((group, point.name, point.value), point)
    return {name: list(points.values()) for name, points in found.items()}


def _module_of(name: str) -> str:
    return f"recallfront_plugin_{name}"


def _run(own: str, path: Path, source: bytes) -> list[type]:
    """What a file's content defines as a module; it is found again by its name, as pydantic and Triton need."""
    spec = spec_from_file_location(own, path)
    assert spec is not None
    module = sys.modules[own] = module_from_spec(spec)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
        return _defined(module)
    except (Exception, SystemExit) as error:  # it is not our code
        del sys.modules[own]
        raise UsageError(f"plug-in {str(path)!r}: cannot be loaded: {_said(error)}") from None


def _said(error: BaseException) -> str:
    """What an error of code that is not ours says."""
    return f"{type(error).__name__}: {one_line(error)}"


def _defined(module: ModuleType) -> list[type]:
    """The mixers and tasks that a module defines itself."""
    found: list[type] = list(mixers.mixers_of(module))
    return found + list(tasks.tasks_of(module))


def _add(name: str, version: str | None, digest: str, found: list[type], told: str) -> Plugin:
    """Register what a plug-in defines, all or nothing."""
    if not found:
        raise UsageError(f"plug-in {told!r}: defines neither a mixer nor a task")
    plugin = Plugin(name=name, version=version, digest=digest)
    for kind in found:
        try:
            if isinstance(kind, type) and issubclass(kind, MixerConfig):
                mixers.register(kind)
                plugin = plugin.model_copy(update={"mixers": (*plugin.mixers, kind.name())})
            elif isinstance(kind, type) and issubclass(kind, Task):
                tasks.register(kind)
                own = str(kind.model_fields["name"].default)
                plugin = plugin.model_copy(update={"tasks": (*plugin.tasks, own)})
            else:
                raise ValueError(f"{kind!r} is neither a mixer's configuration nor a task")
        except Exception as error:  # it is not our code
            _take_out(plugin)
            said = one_line(error) if isinstance(error, ValueError) else f"cannot be loaded: {_said(error)}"
            raise UsageError(f"plug-in {told!r}: {said}") from None
    return plugin


def _take_out(plugin: Plugin) -> None:
    for name in plugin.mixers:
        mixers.unregister(name)
    for name in plugin.tasks:
        tasks.unregister(name)
    _loaded.pop(plugin.name, None)


def _sources_of(module: ModuleType) -> Iterator[tuple[str, bytes]]:
    """The Python files of a package, or of a module of one file, by their names in it."""
    roots = [Path(place) for place in getattr(module, "__path__", ())]
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            yield path.relative_to(root).as_posix(), path.read_bytes()
    if not roots and module.__file__:
        yield Path(module.__file__).name, Path(module.__file__).read_bytes()


def _names(value: object) -> Iterator[str]:
    """What stands under `mixer`, `NAME.mixer` or `architecture` anywhere within a configuration."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if str(key).rpartition(".")[2] in ("mixer", "architecture"):
                yield from (str(one) for one in (inner if isinstance(inner, list | tuple) else [inner]))
            else:
                yield from _names(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _names(inner)
