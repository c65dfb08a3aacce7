"""Plug-ins: files and installed packages, what of them is recorded, and what is refused."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from recallfront.__main__ import run
from recallfront.dashboards.reading import explorer_of
from recallfront.models import build
from recallfront.models.configs import parse_config
from recallfront.models.mixers import registry as mixers
from recallfront.platform import plugins
from recallfront.platform.errors import UsageError
from recallfront.platform.keeping.export import export
from recallfront.platform.keeping.load import load_archive
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.lineage.environment import collect
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_artifact, read_sweep, reading
from recallfront.platform.tracking.lineage import read_lineage
from recallfront.sweeps.tasks import registry as tasks
from tests.platform.stores import ready_store

pytestmark = pytest.mark.usefixtures("no_plugin_stays")

ROOT = Path(__file__).parents[2]
MIXER = """
from typing import Literal
from recallfront.models.mixers.retnet import RetNetConfig
class Mine(RetNetConfig):
    mixer: Literal["{name}"] = "{name}"
"""


ABSTRACT_MIXER = """
from typing import Literal
from recallfront.models.configs.mixer import MixerConfig
class Mine(MixerConfig):
    letter = "M"
    mixer: Literal["mine"] = "mine"
"""
TASK = """
from typing import Literal
from recallfront.sweeps.tasks.base import DrawnRows, DrawnTask
class Mine(DrawnTask[DrawnRows]):
    name: {name}
    vocab_size: int = 8
    seed: int = 0
"""


def blocks() -> dict[str, str]:
    """The files that docs/extending.md shows: name -> content."""
    text = (ROOT / "docs" / "extending.md").read_text()
    return dict(re.findall(r"`(\w+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", text, flags=re.DOTALL))


def written(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_file_s_mixer_is_known_from_then_on_and_a_changed_file_takes_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, "mine.py", MIXER.format(name="mine"))
    first = plugins.load_file(path)
    assert (first.name, first.version, first.mixers, first.tasks) == ("mine", None, ("mine",), ())
    assert plugins.load_file(path) is first
    config = parse_config(
        {"architecture": "hybrid", "mixers": {"M": {"mixer": "mine"}}, "pattern": "M", "vocab_size": 8}
    )
    assert build(config, seed=0) is not None
    path.write_text(path.read_text().replace('"mine"', '"other"'))
    assert plugins.load_file(path).mixers == ("other",) and mixers.find("mine") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = (", "cannot be loaded: SyntaxError"),
        (
            "import no_such_package",
            "cannot be loaded: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ("raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
        ("x = 1", "defines neither a mixer nor a task"),
        (MIXER.format(name="retnet"), "there is another mixer of this name"),
        (MIXER.format(name="hawk"), "mixer 'hawk': there is an architecture of this name"),
        (MIXER.format(name="hybrid"), "mixer 'hybrid': there is an architecture of this name"),
        (
            MIXER.format(name="mine") + "    letter = 'C'\n",
            "mixer 'mine': letter is 'C', which stands for the short",
        ),
        (
            MIXER.format(name="mine") + "    norm: bool = True\n",
            "mixer 'mine': knob 'norm' has the name of a setting",
        ),
        (
            MIXER.format(name="mine") + "    vocab_size: int = 3\n",
            "knob 'vocab_size' has the name of a setting",
        ),
        (ABSTRACT_MIXER, "mixer 'mine': lacks build, "),
        (ABSTRACT_MIXER.replace('letter = "M"', ""), "mixer 'mine': letter is missing; it must be a capital"),
        (
            ABSTRACT_MIXER.replace('"M"', "5"),
            "mixer 'mine': letter is 5; it must be a capital letter, A to Z",
        ),
        (ABSTRACT_MIXER.replace(": Literal", ": ClassVar"), "cannot be loaded: "),
        (
            MIXER.format(name="mine")
            + "    @classmethod\n    def name(cls) -> str:\n        return {}['x']\n",
            "cannot be loaded: KeyError: 'x'",
        ),
        (TASK.format(name='Literal["mine"]'), "write `name: Literal['mine'] = 'mine'`"),
        (TASK.format(name='Literal["mine"] = "mine"'), "task 'mine': lacks draw"),
    ],
)
def test_a_plug_in_that_does_not_work_is_one_sentence_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = written(tmp_path, "broken.py", text)
    assert run(["run", "quickstart", "--plugin", str(path), "--home", str(tmp_path / "home")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "broken.py" in error and said in error, error
    assert not (tmp_path / "home").exists() and "recallfront_plugin_broken" not in plugins._loaded


@pytest.mark.parametrize(
    ("file", "line", "instead", "said"),
    [
        (
            "lookback.py",
            "        return inputs, labels",
            "        return 1 / 0",
            "draw (line {} of lookback.py)",
        ),
        ("lookback.py", "        return inputs, labels", "        return None", "build (line "),
        (
            "fading.py",
            "    def vectors(self) -> int:",
            "    def model_post_init(self, _): self.none\n    def vectors(self) -> int:",
            "model_post_init (line {} of fading.py)",
        ),
    ],
)
def test_a_plug_in_that_fails_when_it_is_used_is_one_sentence_with_its_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    line: str,
    instead: str,
    said: str,
) -> None:
    for name, text in blocks().items():
        written(tmp_path, name, text.replace(line, instead) if name == file else text)
    monkeypatch.chdir(tmp_path)
    assert (
        run(["run", "sweep.yaml", "--plugin", "fading.py", "--plugin", "lookback.py", "--home", "home"]) == 2
    )
    error = capsys.readouterr().err
    number = blocks()[file].splitlines().index(line) + 1
    assert error.count("\n") == 1 and f"recallfront: plug-in file {file} (" in error, error
    assert f"{said.format(number)}" in error and "Error: " in error, error


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9" + MIXER.format(name="mine").encode())
    with pytest.raises(UsageError, match="^plug-in '.*mine.py': must be UTF-8$"):
        plugins.load([path])


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    one, other = (
        written(tmp_path / name, "mine.py", MIXER.format(name=f"mine_{name}")) for name in ("a", "b")
    )
    with pytest.raises(
        UsageError, match=r"^plug-ins '.*/a/mine.py' and '.*/b/mine.py': have the same name; "
    ):
        plugins.load([one, other])
    other.write_text(one.read_text())
    assert "mine" in [plugin.name for plugin in plugins.load([one, other])]


def test_what_is_taken_in_part_is_taken_out_again(tmp_path: Path) -> None:
    two = MIXER.format(name="first") + MIXER.format(name="retnet").replace("Mine", "Second")
    with pytest.raises(UsageError, match="there is another mixer"):
        plugins.load_file(written(tmp_path, "two.py", two))
    assert mixers.find("first") is None


def test_those_in_use_are_part_of_the_code_version(tmp_path: Path) -> None:
    own = code_version()
    path = written(tmp_path, "mine.py", MIXER.format(name="mine"))
    plugin = plugins.load_file(path)
    assert plugins.used_by({"space": [{"architecture": "attention"}], "task": {"name": "mqar"}}) == ()
    assert code_version() == own, "one that is loaded and not used changes nothing"
    spec = {
        "space": [{"architecture": "hybrid", "mixers": {"M": {"mixer": "mine"}}}],
        "task": {"name": "mqar"},
    }
    plugins.use(plugins.used_by(spec))
    first = code_version()
    assert plugins.in_use() == (plugin,) and first != own
    path.write_text(path.read_text() + "\n")
    plugins.use([plugins.load_file(path)])
    assert code_version() not in (own, first)


def test_other_processes_take_what_was_shipped(tmp_path: Path) -> None:
    plugins.use([plugins.load_file(written(tmp_path, "mine.py", MIXER.format(name="mine")))])
    version, places = code_version(), plugins.ship(tmp_path / "home")
    script = (
        "from pathlib import Path; from recallfront.platform import plugins; "
        "from recallfront.platform.lineage.code_version import code_version; "
        f"plugins.receive({places!r}, Path({str(tmp_path / 'home')!r})); print(code_version())"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert told.stdout.strip() == version


def package(folder: Path, name: str = "added", broken: bool = False) -> Path:
    """A package with the mixer and the task of the documentation, as an installer would leave it."""
    shown = blocks()
    for stem in ("fading", "lookback"):
        text = "import nothing_of_this_name" if broken else shown[f"{stem}.py"]
        written(folder / f"{name}_package", f"{stem}.py", text)
    written(folder / f"{name}_package", "__init__.py", "")
    info = folder / f"{name}_package-1.2.dist-info"
    written(info, "METADATA", f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 1.2\n")
    points = (
        f"[recallfront.mixers]\nfading = {name}_package.fading:FadingConfig\n"
        f"[recallfront.tasks]\nlookback = {name}_package.lookback\n"
    )
    written(info, "entry_points.txt", points)
    return folder


def test_an_installed_package_s_mixer_and_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(package(tmp_path)))
    assert "added-package" in plugins.installed()
    assert mixers.find("fading") is None, "an entry point alone is not loaded"
    (plugin,) = (one for one in plugins.load() if one.name == "added-package")
    assert (plugin.version, plugin.mixers, plugin.tasks) == ("1.2", ("fading",), ("lookback",))
    assert tasks.find("lookback").__module__ == "added_package.lookback"
    with pytest.raises(UsageError, match="fading.*there is another mixer of this name"):
        plugins.load_file(written(tmp_path / "files", "fading.py", blocks()["fading.py"]))


def test_the_doctor_lists_plug_ins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recallfront.platform import doctor

    monkeypatch.setattr(doctor, "_ray", lambda address: "")
    monkeypatch.syspath_prepend(str(package(tmp_path, "broken", broken=True)))
    path = written(tmp_path, "mine.py", MIXER.format(name="mine"))
    bare = written(tmp_path, "bare.py", ABSTRACT_MIXER.replace('letter = "M"', ""))
    found = {f.what: f for f in doctor.examine(home=tmp_path / "home", plugins=[path, bare]).findings}
    assert "letter is missing" in found["plug-in bare.py"].said
    assert found["plug-in mine.py"].fine and "mixer mine" in found["plug-in mine.py"].said
    broken = found["plug-in broken-package"]
    assert not broken.fine
    assert "broken-package 1.2: broken_package.fading:FadingConfig cannot be loaded" in broken.said


def digits_suite(folder: Path) -> tuple[str, ...]:
    """Options of `evaluate`: a document, and a tokenizer of few tokens that does not say which ends a text."""
    vocab = {text: number for number, text in enumerate(["<done>", "<unk>", *"0123456789"])}
    (folder / "words").mkdir()
    Tokenizer(BPE(vocab, [], unk_token="<unk>")).save(str(folder / "words" / "tokenizer.json"))
    written(folder / "suite", "squad.jsonl", json.dumps({"text": "12 34 12", "value": "34"}))
    return "--data", "suite", "--tokenizer", "words", "--end-token", "<done>"


def test_a_lineage_names_files_of_plug_ins_that_a_command_can_show() -> None:
    """A lineage may come out of somebody else's archive: its names are shown in MLflow's notes and on pages."""
    names = ("my mixer", "a\n```\n# b", "../../tmp/x")
    used = tuple(plugins.Plugin(name=name, digest="0" * 16) for name in names)
    package = plugins.Plugin(name="added", version="1.2", digest="0" * 16)
    lineage = collect().model_copy(update={"plugins": (*used, package)})
    assert lineage.plugin_files == ["my mixer.py"]


@pytest.mark.slow
def test_the_documentation_s_plug_ins_run_and_are_kept_with_their_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they stand, by the real command; then the rerun, without them, with them, and with one that has changed."""
    shown = blocks()
    assert {
        len(shown[name].splitlines()) < most for name, most in (("fading.py", 60), ("lookback.py", 40))
    } == {True}
    for name, text in shown.items():
        written(tmp_path, name, text)
    monkeypatch.chdir(tmp_path)
    given = ("--plugin", "fading.py", "--plugin", "lookback.py")
    line = [sys.executable, "-m", "recallfront", "run", "sweep.yaml", *given, "--home", "home"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "3 finished" in done.stdout, done.stdout + done.stderr
    store = f"sqlite:///{tmp_path}/home/mlflow.db"
    trial = read_sweep(store, "lookback").trials[0]
    kept = {plugin.name: plugin for plugin in read_lineage(store, trial.run_id).environment.plugins}
    assert kept["fading"].mixers == ("fading",) and kept["lookback"].tasks == ("lookback",)
    with reading(store) as client:
        assert read_artifact(client, trial.run_id, "lineage/plugins/fading.py") == shown["fading.py"]

    def command(*words: str) -> tuple[int, str, str]:
        """In this process, which knows no plug-in but those of the commands before: the exit code and what is said."""
        code = run([*words, "--home", "home"])
        return code, *capsys.readouterr()

    suite = digits_suite(tmp_path)
    for name, *more in (("rerun",), ("evaluate", *suite)):
        code, _, errors = command(name, trial.run_id, *more)
        assert code == 2 and "needs the plug-in file" in errors, errors
    code, _, errors = command("run", "sweep.yaml", "--plugin", "fading.py")
    assert code == 2 and "lookback" in errors, errors
    assert "0 trials run, 3 answered" in command("run", "sweep.yaml", *given)[1]
    (printed,) = (line for line in done.stdout.splitlines() if " rerun " in line)
    assert f" --plugin {tmp_path}/fading.py --plugin {tmp_path}/lookback.py " in printed
    code, told, errors = command("rerun", *shlex.split(printed.partition(" rerun ")[2]))
    assert code == 0 and "verdict: identical" in told, told + errors
    code, told, errors = command("evaluate", trial.run_id, *given, *suite)
    assert code == 0 and "squad" in told, told + errors
    code, told, errors = command("report", "lookback", "--out", "report")
    report = (tmp_path / "report" / "report.md").read_text()
    assert (
        code == 0
        and f"file fading.py ({kept['fading'].digest}), artifact lineage/plugins/fading.py" in report
    )
    again = re.findall(
        r"recallfront (run|rerun|report) .* --plugin fading.py --plugin lookback.py$", report, re.M
    )
    assert again == ["run", "rerun", "report"], report
    explorer = explorer_of(store, read_sweep(store, "lookback").run_id, 0.0)
    panel = explorer.panel(explorer.rows[0], {}, "uri")
    of_pages = [line for _, line in (*explorer.view.commands("uri"), *panel["commands"])]
    named = [line.split()[1] for line in of_pages if " --plugin fading.py --plugin lookback.py " in line]
    assert named == ["rerun", "report", "rerun", "run"], of_pages
    export("lookback", tmp_path / "lookback.zip", home=tmp_path / "home")
    other = ready_store(tmp_path / "other")
    taken = load_archive(tmp_path / "lookback.zip", home=tmp_path / "other")
    note = open_client(other).get_run(taken.run_id).data.tags["mlflow.note.content"]
    assert re.findall(r"^recallfront (\w+) .* --plugin fading.py --plugin lookback.py$", note, re.M) == [
        "rerun",
        "report",
    ]
    written(tmp_path, "fading.py", shown["fading.py"] + "\n# changed\n")
    for name, *more in (("rerun",), ("lineage",), ("evaluate", *suite)):
        code, _, errors = command(name, trial.run_id, *given, *more)
        assert code == 2 and errors.count("\n") == 1, errors
        assert "fading.py" in errors and "which is now" in errors
