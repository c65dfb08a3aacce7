"""The command line: whatever a user gets wrong is one clear line, exit code 2, and nothing computed."""

import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from recallfront.__main__ import run
from recallfront.platform.errors import UsageError
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.store import prepare_store
from tests.platform.specs import tiny
from tests.platform.stores import ready_store

Refused = Callable[..., str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the default home would be made here
    for name in ("RECALLFRONT_HOME", "RECALLFRONT_TRACKING_URI", "RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def refused(home: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    def refuse(*arguments: str) -> str:
        """Run a command that has to be refused -> its one line."""
        assert run(list(arguments)) == 2
        error = capsys.readouterr().err
        assert error.startswith("recallfront: ") and error.count("\n") == 1, error
        return error

    return refuse


@pytest.fixture
def file(home: Path) -> Callable[..., str]:
    def write(content: str | bytes | None = None, **changes: Any) -> str:
        path = home.parent / "mine.yaml"
        content = yaml.safe_dump(tiny(**changes)) if content is None else content
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def windows(*sizes: int) -> list[dict[str, Any]]:
    return [{"architecture": "window", "window_size": list(sizes)}]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"trainign": {}}, "trainign: unknown key; allowed are training,"),
    "unknown key within": ({"training": {"stepz": 1}}, "training.stepz: unknown key; allowed are steps,"),
    "wrong type": ({"training": {"steps": "many"}}, "training.steps='many': input should be a valid integer"),
    "empty space": ({"space": []}, "space: is empty; give at least one block"),
    "window 0": ({"space": windows(0)}, "space[0].window_size=0: input should be greater than or equal to 1"),
    "window too long": ({"space": windows(99)}, "window_size=99: longer than the task's longest row of 16"),
    "heads": (
        {"space": [{"architecture": "attention", "num_heads": 3}]},
        "num_heads is 3, which does not divide",
    ),
    "architecture": (
        {"space": [{"architecture": "atention"}]},
        "architecture='atention': must be one of attention,",
    ),
    "seeds": ({"seeds": [0, 0]}, "seeds=[0, 0]: each seed may appear only once"),
    "a seed": ({"seeds": [-1]}, "mine.yaml: seeds[0]=-1: input should be greater than or equal to 0\n"),
    "a pair": ({"training": {"betas": [0.9]}}, "training.betas[1]=[0.9]: too few values"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_specification_leaves_nothing(
    wrong: str, refused: Refused, file: Callable[..., str], home: Path
) -> None:
    changes, told = WRONG[wrong]
    path = file(**changes)
    for command in (
        ("run", path, "--home", str(home)),
        ("submit", path, "--address", "http://127.0.0.1:1", "--tracking-uri", "http://127.0.0.1:1"),
    ):
        message = refused(*command)
        assert told in message and path in message
    assert [p.name for p in home.parent.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x80\xff\x00", "cannot be read: it must be YAML text in UTF-8"),
        ("name: [1", "line 1: is not YAML"),
        ("", "must be a mapping of keys such as name, task and space"),
        ("x: !!python/object/apply:os.mkdir ['mark']", "tags that make Python objects are not allowed"),
    ],
)
def test_an_unreadable_file_leaves_nothing(
    content: str | bytes, told: str, refused: Refused, file: Callable[..., str], home: Path
) -> None:
    assert told in refused("run", file(content), "--home", str(home))
    assert [p.name for p in home.parent.iterdir()] == ["mine.yaml"]


def test_a_missing_file_is_said_with_the_studies(refused: Refused, home: Path) -> None:
    assert "nowhere.yaml: is neither a file nor one of the studies" in refused("run", "nowhere.yaml")
    assert not home.exists()


def test_the_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["studies"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["forgetting", "cpu", "42", "20", "min", "5", "Does"] in [line[:7] for line in lines]
    assert {"forgetting-gpu", "quickstart"} <= {line[0] for line in lines if line}


@pytest.mark.parametrize(
    "command",
    [
        ("front", "tiny"),
        ("pick", "tiny"),
        ("claims", "tiny"),
        ("report", "tiny", "--out", "report"),
        ("status",),
        ("status", "tiny"),
        ("cancel", "tiny"),
        ("rerun", "abcdef1"),
        ("lineage", "abcdef1"),
    ],
    ids=" ".join,
)
def test_reading_where_there_is_no_store_makes_none(
    command: tuple[str, ...], refused: Refused, home: Path
) -> None:
    message = refused(*command, "--home", str(home))
    assert f"there is no MLflow store at {home / 'mlflow.db'}: run a sweep first" in message
    refused(*command)
    refused(*command, "--tracking-uri", f"sqlite:///{home}/other.db")
    assert list(home.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("front", "nosuch"), "there is no sweep 'nosuch' in"),
        (("pick", "nosuch"), "there is no sweep 'nosuch' in"),
        (("status", "nosuch"), "there is no sweep 'nosuch' in"),
        (("cancel", "nosuch"), "there is no sweep 'nosuch' in"),
        (("logs", "nosuch"), "there is no sweep 'nosuch' in"),
        (("delete", "nosuch"), "there is no sweep 'nosuch' in"),
        (("rerun", "abcdef12"), "there is no run 'abcdef12' in"),
        (("lineage", "abcdef12"), "there is no run 'abcdef12' in"),
        (("rerun", "best"), "run 'best' is no run id or trial key: give at least 6 of its first hex digits"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_sweeps_and_runs(command: tuple[str, ...], told: str, refused: Refused, home: Path) -> None:
    uri = ready_store(home)
    assert told in refused(*command, "--home", str(home))
    assert [e.name for e in open_client(uri).search_experiments()] == ["Default"], "and no run is made"
    assert not (home / "trials").exists() and not (home / "reruns").exists()


@pytest.mark.parametrize(
    "command", [("run", "quickstart"), ("front", "x"), ("rerun", "abcdef1"), ("status",)], ids=" ".join
)
def test_a_tracking_server_that_is_not_there(command: tuple[str, ...], refused: Refused, home: Path) -> None:
    uri = f"http://{nobody()}"
    message = refused(*command, "--tracking-uri", uri, "--home", str(home))
    assert f"the MLflow server at '{uri}' does not answer" in message and "refused" in message
    assert not home.exists()


@pytest.mark.slow
def test_a_tracking_server_that_says_nothing(refused: Refused, silent: str, home: Path) -> None:
    start = time.monotonic()
    assert "does not answer" in refused(
        "run", "quickstart", "--tracking-uri", f"http://{silent}", "--home", str(home)
    )
    assert time.monotonic() - start < 30 and not home.exists()


@pytest.mark.parametrize("uri", ["ftp://x", "postgresql://u@h/d", "nonsense", "http://", ""])
def test_a_tracking_uri_that_is_none(uri: str, refused: Refused, home: Path) -> None:
    assert f"tracking URI {uri!r}" in refused("run", "quickstart", "--tracking-uri", uri, "--home", str(home))
    assert not home.exists()


@pytest.mark.parametrize("uri", ["http://me:secret@127.0.0.1:1", "postgresql://me:secret@h/d"])
def test_a_password_in_a_tracking_uri_is_refused_and_not_printed(
    uri: str, refused: Refused, home: Path
) -> None:
    commands = [("run", "quickstart"), ("submit", "quickstart", "--address", "http://127.0.0.1:1")]
    for command in commands:
        message = refused(*command, "--tracking-uri", uri, "--home", str(home))
        assert "has a password in it" in message and "MLFLOW_TRACKING_PASSWORD" in message
        assert "secret" not in message
    assert not home.exists()


def test_the_variables_of_mlflow_and_ray_are_obeyed(
    refused: Refused, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert "address '127.0.0.1:1': no Ray cluster answers there" in refused(
        "run", "quickstart", "--home", str(home)
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert "the MLflow server at 'http://127.0.0.1:1' does not answer" in refused(
        "front", "x", "--home", str(home)
    )
    with pytest.raises(UsageError, match="http://127.0.0.1:1"):
        prepare_store(None, home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    with pytest.raises(UsageError, match="'databricks' is not supported: .* MLFLOW_TRACKING_URI names it"):
        prepare_store(None, home)
    monkeypatch.setenv("RECALLFRONT_TRACKING_URI", "http://127.0.0.1:2")
    assert "127.0.0.1:2" in refused("front", "x", "--home", str(home)), "our own comes first"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:3")
    assert "127.0.0.1:3" in refused("submit", "quickstart")
    assert not home.exists()


@pytest.mark.parametrize("stream", ["closed", "full"])
def test_an_output_that_cannot_be_written(stream: str, home: Path) -> None:
    target = "&-" if stream == "closed" else "/dev/full"
    command = ["bash", "-c", f'"$0" -m recallfront --version >{target}', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True)
    told = {"closed": (0, ""), "full": (2, "recallfront: writing failed: No space left on device\n")}
    assert (done.returncode, done.stderr) == told[stream]


def test_a_reader_that_has_left_is_no_failure_of_the_command() -> None:
    """1 would mean of some commands that a sweep is worse."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "recallfront", "studies"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("command", "told"),
    [("run quickstart", "interrupted; run the sweep again to resume it"), ("front x", "interrupted")],
)
def test_an_interruption_while_the_command_starts_is_one_line(command: str, told: str) -> None:
    program = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from recallfront.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program, *command.split()], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, f"recallfront: {told}\n")


def test_a_cluster_that_is_not_there(refused: Refused, home: Path) -> None:
    for address in (nobody(), "head", "head:x", ""):
        message = refused("run", "quickstart", "--address", address, "--home", str(home))
        assert f"address '{address}': no Ray cluster answers there" in message and "HOST:PORT" in message
    assert not home.exists()


@pytest.mark.slow
def test_something_else_where_a_cluster_should_be(refused: Refused, silent: str, home: Path) -> None:
    start = time.monotonic()
    message = refused("run", "quickstart", "--address", silent, "--home", str(home))
    assert f"address '{silent}': no Ray cluster answers there (timed out)" in message
    assert time.monotonic() - start < 30 and not home.exists()


def test_a_dashboard_that_is_not_there(refused: Refused, home: Path) -> None:
    address = f"http://{nobody()}"
    options = ("--address", address, "--tracking-uri", "http://127.0.0.1:1")
    assert f"address '{address}': no Ray dashboard answers there" in refused("submit", "quickstart", *options)
    assert "must be the cluster's dashboard, such as" in refused("status", "--address", "head:8265")
    assert f"address '{address}'" in refused("status", "--address", address)
    assert list(home.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("ui", "--port", "abc"), "'--port'"),
        (("ui", "--port", "70000"), "port 70000: must be from 1 to 65535"),
        (("ui", "--host", "999.1.1.1"), "host '999.1.1.1': is no address of this machine ("),
        (("ui", "--host", "192.0.2.1"), "host '192.0.2.1': is no address of this machine ("),
        (("run", ""), "recallfront: '': is neither a file nor one of the studies"),
        (("pick", "x", "--alias", "latest"), "MLflow does not register 'latest': 'latest' alias name"),
        (("pick", "x", "--alias", "v1"), "MLflow does not register 'v1': "),
        (("status", "--address", "http://[x"), "address 'http://[x' cannot be read ("),
        (("front", "x", "--csv", "--json"), "--csv and --json: give only one of them"),
        (("status", "x", "--follow"), "--follow: needs the name of a job, and --address with the dashboard"),
        (("status", "--address", ""), "address '': must be the cluster's dashboard"),
        (("run",), "Missing argument"),
        (("run", "quickstart", "--hoem", "x"), "No such option: --hoem"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("run", "a", "b"), "unexpected extra argument"),
        (("submit", "quickstart", "--address", "http://h:1"), "Missing option '--tracking-uri'"),
        (("front",), "Missing argument"),
        (
            ("evaluate", "x", "--suite", "rulers"),
            "--suite rulers: must be recall, ruler, phonebook, extraction,",
        ),
        (("evaluate", "x"), "--data: is missing: name the folder"),
        (("evaluate", "x", "--suite", "extraction"), "--data: is missing: name the folder"),
        (
            ("evaluate", "x", "--suite", "extraction", "--data", ".", "--twice"),
            "--twice: is no option of --suite extraction, which takes --data, --context-length, --most\n",
        ),
        (
            ("evaluate", "x", "--suite", "ruler", "--data", "."),
            "--data: is no option of --suite ruler, which takes --context-length, --most\n",
        ),
        (
            ("evaluate", "x", "--suite", "lm-eval:arc", "--context-length", "100"),
            "--context-length: is no option of --suite lm-eval:arc, which takes --data, --most\n",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_options(arguments: tuple[str, ...], told: str, refused: Refused, home: Path) -> None:
    message = refused(*arguments)
    assert told in message
    assert list(home.parent.iterdir()) == []


def test_a_home_that_cannot_be_made(refused: Refused, home: Path) -> None:
    home.write_text("a file")
    assert str(home) in refused("run", "quickstart", "--home", str(home / "inside"))


def test_a_home_that_is_a_link_to_itself(refused: Refused, home: Path) -> None:
    home.symlink_to(home)
    told = f"home '{home}': is a symbolic link to itself"
    assert told in refused("run", "quickstart", "--home", str(home))
    assert told in refused("status", "--home", str(home))


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    import recallfront.sweeps.load

    def broken(name: str) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(recallfront.sweeps.load, "load_study", broken)
    with pytest.raises(RuntimeError, match="ours"):
        run(["run", "quickstart"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("run", "mine.yaml"), 2, "recallfront: mine.yaml: space[0].window_size=0: input should be greater"),
        (("rerun", "abcdef12"), 2, "recallfront: there is no MLflow store at"),
        (("front", "x", "--plit", "f"), 2, "recallfront: No such option: --plit"),
        ((), 0, ""),
    ],
    ids=["run", "rerun", "front", "nothing"],
)
def test_as_a_user_sees_it(
    arguments: tuple[str, ...], code: int, told: str, file: Callable[..., str], home: Path
) -> None:
    file(space=windows(0))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "recallfront", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home.parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code
    assert after.ru_utime - before.ru_utime < 15  # of the processor: others may keep the machine busy
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.startswith(told) and done.stderr.count("\n") == (1 if code else 0)
    assert [p.name for p in home.parent.iterdir()] == ["mine.yaml"]


def test_more_memory_than_the_machine_has_is_said_before_anything_is_made(
    refused: Refused, file: Callable[..., str], home: Path
) -> None:
    message = refused("run", file(resources={"memory_gb": 100_000}), "--home", str(home))
    assert re.search(r"resources: memory_gb=100000: this machine has \d+\.\d GiB", message)
    assert not home.exists()


@pytest.mark.parametrize("asked", ["cpus", "gpus"])
def test_more_than_the_machine_has_is_said_before_anything_is_made(
    asked: str, refused: Refused, file: Callable[..., str], home: Path
) -> None:
    message = refused("run", file(resources={asked: 4096}), "--home", str(home))
    assert re.search(rf"resources: a trial asks for .*4096 {asked[:3].upper()}; this machine has \d", message)
    assert not home.exists()
