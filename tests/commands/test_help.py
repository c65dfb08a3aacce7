"""What the command says of itself: its help and its version."""

import re
import subprocess
import sys

import pytest

import recallfront
from recallfront.__main__ import run


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in (
        "run",
        "submit",
        "status",
        "front",
        "pick",
        "rerun",
        "evaluate",
        "lineage",
        "ui",
        "bench",
        "doctor",
        "clean",
    ):
        assert f" {command} " in shown


def test_the_help_says_in_a_whole_sentence_what_each_command_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["--help"]) == 0
    summaries = re.findall(
        r"^  (\w+)  +(.+)$", capsys.readouterr().out.partition("Commands:\n")[2], re.MULTILINE
    )
    assert len(summaries) > 20
    for command, summary in summaries:
        assert summary.endswith(".") and not summary.endswith("..") and len(summary) <= 60, command


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"recallfront {recallfront.__version__}\n"


def test_the_version_is_told_without_what_sweeps_need() -> None:
    """It takes 0.2 s of a core; with pydantic and the specification it took 0.6 s, with torch 1.7 s."""
    script = (
        "import sys; from recallfront.__main__ import run; run(['--version']);"
        "print([m for m in ('pydantic', 'yaml', 'torch', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["[]"]
