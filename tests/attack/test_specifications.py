"""Fuzzed specifications through the command's own entry: each is refused in one sentence, or is a sweep."""

import random
import signal
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import typer

from recallfront.__main__ import run
from recallfront.platform import plugins
from recallfront.platform.search.planner import Planner
from recallfront.platform.search.samplers import make_search
from recallfront.platform.sweep import run as sweep_run
from recallfront.platform.sweep import suite
from recallfront.sweeps import SweepSpec
from tests.attack.specifications import odd_specification

pytestmark = pytest.mark.attack

_FEWEST, _LONGEST_SECONDS = 1000, 5.0


class Accepted(Exception):
    """Everything was checked: from here on the command would compute."""


class TooLong(BaseException):
    """A specification took too much of the processor; no `except Exception` shall hide it."""


def _plan(spec: SweepSpec, *_: Any) -> None:
    """In place of the sweep: what needs no model, no data and no store."""
    assert spec.key and spec.number_of_trials >= 1 and isinstance(spec.notes, list)
    Planner(spec, make_search(spec, [], 0, []), {}, []).next()
    raise Accepted


def _accept(*_: Any) -> None:
    raise Accepted


def _ring(*_: object) -> None:
    raise TooLong


@pytest.mark.timeout(0)
def test_an_odd_specification_is_refused_in_one_sentence_or_is_a_sweep(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float | None,
    seed: int,
) -> None:
    monkeypatch.setattr(sweep_run, "_run_sweep", _plan)
    monkeypatch.setattr(suite, "prepare_store", _accept)
    # both look alike for every specification, and take longer than all else
    monkeypatch.setattr(plugins, "_installed", lru_cache(plugins._installed))
    monkeypatch.setattr(typer.main, "get_command", lru_cache(typer.main.get_command))
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGPROF, _ring)
    file, accepted, number, wrong = tmp_path / "odd.yaml", 0, 0, list[str]()
    deadline = time.monotonic() + (seconds or 0.0)
    try:
        while number < _FEWEST or time.monotonic() < deadline:
            content = odd_specification(random.Random(f"{seed}-{number}"))
            file.write_bytes(content)
            fault = _fault(file, capsys)
            accepted += fault is None
            if fault:
                wrong.append(f"ATTACK_SEED={seed}, specification {number}: {fault}\n{content[:3000]!r}")
            number += 1
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    print(f"{number} specifications, {accepted} of them sweeps, {len(wrong)} faults")
    assert not wrong, f"{len(wrong)} of {number}\n" + "\n".join(wrong[:10])
    assert 0 < accepted < number, "both kinds are tried"


def _fault(file: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    """What is wrong with how the command takes this specification: None if it is a sweep, "" if it is refused well."""
    signal.setitimer(signal.ITIMER_PROF, _LONGEST_SECONDS)
    try:
        code = run(["run", str(file), "--home", str(file.parent / "home")])
    except Accepted:
        capsys.readouterr()
        return None
    except TooLong:
        return f"took longer than {_LONGEST_SECONDS:g} s"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    told = capsys.readouterr().err
    lines = told.splitlines()
    if code == 2 and len(lines) == 1 and lines[0].startswith("recallfront: ") and "Traceback" not in told:
        return ""
    return f"exit code {code}, {told!r}"
