"""What is sent to a cluster: our own wheel, a command, a token."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import recallfront
from recallfront.platform.cluster import jobs as submitting
from recallfront.platform.cluster.tokens import find_token
from recallfront.platform.cluster.wheel import build_wheel
from recallfront.platform.errors import UsageError
from recallfront.platform.home import user_name
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.plugins import use
from recallfront.sweeps.load import load_spec
from recallfront.sweeps.protocols import PROTOCOLS
from tests.platform.specs import UNLIKE_ZOOLOGY, tiny

# not in ASCII alone, as a file may be read otherwise elsewhere
FADING = """
from typing import ClassVar, Literal
from recallfront.models.mixers.retnet import RetNetConfig
class Fading(RetNetConfig):
    \"\"\"Memory à la carte.\"\"\"
    letter: ClassVar[str] = "{letter}"
    mixer: Literal["{name}"] = "{name}"
"""
# its arguments: a sweep, a plug-in, and where the job's folder is copied to
SUBMIT = """
import shutil
import sys
from types import SimpleNamespace
from recallfront.platform.cluster import jobs

sweep, plugin, folder = sys.argv[1:]

def submit_job(**sent):
    shutil.copytree(sent["runtime_env"]["working_dir"], folder)
    return "job"

jobs._client = lambda address: SimpleNamespace(list_jobs=list, submit_job=submit_job)
jobs.submit(sweep, address="http://head", tracking_uri="http://m", home="/shared", plugins=[plugin])
"""


def test_the_wheel_is_the_package_as_imported_and_installs(tmp_path: Path) -> None:
    path = build_wheel(tmp_path)
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        assert wheel.testzip() is None
        metadata = wheel.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert "Requires-Dist" not in metadata, "Ray would install what the cluster has, from the network"
    expected = {"recallfront/__init__.py", "recallfront/cli.py", "recallfront/py.typed"}
    expected |= {"recallfront/platform/trial/body.py", "recallfront/sweeps/studies/quickstart.yaml"}
    assert expected <= names
    assert not any("__pycache__" in name for name in names)

    target = tmp_path / "node"
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(target)
    code = (
        "import recallfront, recallfront.platform.lineage.code_version as version; "
        "print(recallfront.__file__, version.code_version())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert Path(answer[0]).is_relative_to(target), "an unpacked wheel comes before what is installed"
    assert answer[1] == code_version(), "the same code has the same version on the cluster"
    assert recallfront.__version__ in path.name


def test_the_command_quotes_what_it_is_given() -> None:
    command = submitting._entrypoint("/shared/my outputs", "http://mlflow:5000")
    assert "--home '/shared/my outputs' --tracking-uri http://mlflow:5000" in command
    assert "--home s3://bucket/x --tracking-uri" in submitting._entrypoint("s3://bucket/x/", "http://m")
    assert '--home "$HOME"/recallfront-home ' in submitting._entrypoint("~/recallfront-home", "https://m")


@pytest.mark.parametrize(
    ("home", "uri", "says"),
    [
        ("outputs", "http://m:5000", "home 'outputs': must be an absolute path"),
        ("/shared", "sqlite:///x.db", "tracking URI 'sqlite:///x.db': a job needs an MLflow server"),
    ],
)
def test_what_a_cluster_could_not_reach_is_refused(home: str, uri: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        submitting._entrypoint(home, uri)


@pytest.mark.parametrize(
    ("home", "uri"),
    [
        ("/shared/hf-secret-1", "http://m"),
        ("/shared", "http://m/hf-secret-1"),
        ("/AKIA0123456789ABCDEF", "http://m"),
    ],
)
def test_a_command_with_a_secret_is_refused(home: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf-secret-1")
    with pytest.raises(
        UsageError, match="the job's command holds (the value of HF_TOKEN|an access key of AWS)"
    ):
        submitting._entrypoint(home, uri)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"task": {"name": "text", "source": {"files": ["{python}/*.py", "corpus/*.txt"]}}},
            r"task.source.files='corpus/\*.txt': a job runs in a folder of its own: give an absolute path",
        ),
        ({"task": {"name": "text", "source": {"dataset": "corpus"}}}, "task.source.dataset='corpus'"),
        (
            {"task": {"name": "text", "source": {"files": "/shared/*.txt"}, "tokenizer": "corpus"}},
            "task.tokenizer='corpus'",
        ),
        ({"start": {"folder": "corpus"}}, "start.folder='corpus'"),
    ],
)
def test_paths_below_a_working_directory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    (tmp_path / "corpus").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = tiny(name="relative", space=[{"architecture": "window", "window_size": 4}]) | changes
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(UsageError, match=says):
        submitting.submit("sweep.yaml", address="http://127.0.0.1:1", tracking_uri="http://m", home="/shared")


class Head:
    """A cluster that takes jobs, and keeps what it was sent."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.entrypoint, self.metadata = folder, "", {"": ""}
        self.runtime_env: dict[str, Any] = {}

    def list_jobs(self) -> list[Any]:
        return []

    def submit_job(
        self, *, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str], **more: Any
    ) -> str:
        shutil.copytree(runtime_env["working_dir"], self.folder)
        self.entrypoint, self.metadata, self.runtime_env = entrypoint, metadata, runtime_env
        return "job"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_sweep_that_is_sent_is_the_one_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    head = Head(tmp_path / "job")
    monkeypatch.setattr(submitting, "_client", lambda address: head)
    spec = tiny(protocol=protocol, training=UNLIKE_ZOOLOGY, description="à part", name="sent")
    file = tmp_path / "asked.yaml"
    file.write_text(yaml.safe_dump(spec, allow_unicode=True), encoding="utf-8")
    submitting.submit(str(file), address="http://head", tracking_uri="http://m", home="/shared")
    asked, sent = load_spec(str(file)), load_spec(str(tmp_path / "job/sweep.yaml"))
    assert sent == asked and head.metadata["recallfront_sweep_key"] == sent.key


def fading_sweep(folder: Path) -> tuple[Path, Path]:
    """A sweep's file, and that of the plug-in that it uses."""
    mixer = folder / "mine" / "fading.py"
    mixer.parent.mkdir()
    mixer.write_text(FADING.format(name="fading", letter="F"), encoding="utf-8")
    block = {"architecture": "hybrid", "mixers": {"F": {"mixer": "fading"}}, "pattern": "F"}
    file = folder / "asked.yaml"
    file.write_text(yaml.safe_dump(tiny(space=[block], name="sent")))
    return file, mixer


@pytest.mark.usefixtures("no_plugin_stays")
def test_a_plug_in_is_sent_along_and_is_the_same_code_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head(tmp_path / "job")
    monkeypatch.setattr(submitting, "_client", lambda address: head)
    file, mixer = fading_sweep(tmp_path)
    unused = mixer.with_name("unused.py")
    unused.write_text(FADING.format(name="unused", letter="U"), encoding="utf-8")
    where = {"address": "http://head", "tracking_uri": "http://m", "home": "/shared"}
    submitting.submit(str(file), **where, plugins=[mixer, unused])
    assert {path.name for path in head.folder.iterdir()} == {"sweep.yaml", "fading.py"}
    assert (head.folder / "fading.py").read_bytes() == mixer.read_bytes()
    assert head.entrypoint.endswith(" --plugin fading.py")

    code = (
        "from recallfront.platform.lineage.code_version import code_version; "
        "from recallfront.platform.plugins import load, use, used_by; "
        "from recallfront.sweeps.load import load_spec; "
        "load(['fading.py']); "
        "use(used_by(load_spec('sweep.yaml').model_dump(mode='json'))); "
        "print(code_version())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=head.folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    own = code_version()
    use([])
    assert there == own != code_version()


def test_a_plug_in_is_sent_as_it_is_where_files_are_ascii(tmp_path: Path) -> None:
    file, mixer = fading_sweep(tmp_path)
    in_ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", SUBMIT, str(file), str(mixer), str(tmp_path / "job")]
    done = subprocess.run(command, env=os.environ | in_ascii, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "job" / "fading.py").read_bytes() == mixer.read_bytes()


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("ada", {"RECALLFRONT_USER": "ada"}),
        ("a\x1b[2Jda\n", {"RECALLFRONT_USER": r"a\x1b[2Jda"}),
        ("hf-secret-1", {"RECALLFRONT_USER": "..."}),
        ("", {}),
    ],
)
def test_a_job_is_recorded_as_its_submitter_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sent: dict[str, str]
) -> None:
    head = Head(tmp_path / "job")
    monkeypatch.setattr(submitting, "_client", lambda address: head)
    monkeypatch.delenv("RECALLFRONT_USER", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf-secret-1")
    monkeypatch.setattr("getpass.getuser", lambda: name)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tiny(name="sent")))
    where = {"address": "http://head", "tracking_uri": "http://m", "home": "/shared"}
    submitting.submit(str(tmp_path / "sweep.yaml"), **where)
    assert head.runtime_env["env_vars"] == sent
    monkeypatch.setattr("getpass.getuser", lambda: "account-of-the-head")
    for variable, value in sent.items():
        monkeypatch.setenv(variable, value)
    assert user_name() == (sent.get("RECALLFRONT_USER") or "account-of-the-head")


def test_a_token_is_looked_for_where_ray_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token() == (None, "")
    default = tmp_path / ".ray" / "auth_token"
    default.parent.mkdir()
    default.write_text("of the default file\n")
    assert find_token() == ("of the default file", str(default))
    named = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    with pytest.raises(UsageError, match="RAY_AUTH_TOKEN_PATH=.*cannot be read: No such file"):
        find_token()
    named.write_text("of the named file")
    assert find_token() == ("of the named file", str(named))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the variable")
    assert find_token() == ("of the variable", "RAY_AUTH_TOKEN")
