"""The command line: whatever a user gets wrong is one clear line, exit code 2, and nothing computed."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recallfront.__main__ import run
from tests.commands.conftest import Refused
from tests.platform.specs import tiny


@pytest.fixture
def file(home: Path) -> Callable[..., str]:
    def write(content: str | bytes | None = None, **changes: Any) -> str:
        path = home.parent / "mine.yaml"
        content = yaml.safe_dump(tiny(**changes)) if content is None else content
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


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
        "num_heads is 3, which must divide",
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
    begin = [line[:7] for line in lines]
    assert ["forgetting", "cpu", "42", "20", "min", "5", "Does"] in begin
    assert ["alibi-extrapolation", "cpu", "21", "35", "min", "6", "Does"] in begin, "a suite with its sweeps'"
    assert {"forgetting-gpu", "quickstart"} <= {line[0] for line in lines if line}


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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("ui", "--port", "abc"), "'--port'"),
        (("ui", "--port", "70000"), "port 70000: must be from 1 to 65535"),
        (("ui", "--host", "999.1.1.1"), "host '999.1.1.1': is not an address of this machine ("),
        (("ui", "--host", "192.0.2.1"), "host '192.0.2.1': is not an address of this machine ("),
        (("run", ""), "recallfront: '': is neither a file nor one of the studies"),
        (("pick", "x", "--alias", "latest"), "MLflow does not register 'latest': 'latest' alias name"),
        (("pick", "x", "--alias", "v1"), "MLflow does not register 'v1': "),
        (("status", "--address", "http://[x"), "address 'http://[x' cannot be read ("),
        (("front", "x", "--csv", "--json"), "--csv and --json: give only one of them"),
        (("status", "x", "--follow"), "--follow: needs the name of a job, and --address with the dashboard"),
        (("status", "--all"), "--all: needs the name of a sweep, and no --address"),
        (("status", "x", "--all", "--address", "http://h:1"), "--all: needs the name of a sweep, and no"),
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
            "--twice: is not an option of --suite extraction, which takes --data, --context-length, --most\n",
        ),
        (
            ("evaluate", "x", "--suite", "ruler", "--data", "."),
            "--data: is not an option of --suite ruler, which takes --context-length, --most\n",
        ),
        (
            ("evaluate", "x", "--suite", "lm-eval:arc", "--context-length", "100"),
            "--context-length: is not an option of --suite lm-eval:arc, which takes --data, --most\n",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_options(arguments: tuple[str, ...], told: str, refused: Refused, home: Path) -> None:
    message = refused(*arguments)
    assert told in message
    assert list(home.parent.iterdir()) == []


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
