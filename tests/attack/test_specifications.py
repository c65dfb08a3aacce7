"""Fuzzed specifications through the command's own entry: each is refused in one sentence, or is a sweep."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

_FEWEST = 1000
# seconds of the processor, which others may take from what computes, and of the clock, for what waits
_LONGEST = (5.0, 30.0)
_ALARMS = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}


class Accepted(Exception):
    """Everything was checked: from here on the command would compute."""


class TooLong(BaseException):
    """A specification took too much of the processor, or too long; no `except Exception` shall hide it."""


def _plan(spec: SweepSpec, *_: Any) -> None:
    """In place of the sweep: what needs no model, no data and no store."""
    assert spec.key and spec.number_of_trials >= 1 and isinstance(spec.notes, list)
    Planner(spec, make_search(spec, [], 0, []), {}, []).next()
    raise Accepted


def _accept(*_: Any) -> None:
    raise Accepted


@contextmanager
def _alarms() -> Iterator[None]:
    """Let both alarms end what runs; neither is set yet."""

    def ring(*_: object) -> None:
        raise TooLong

    before = {number: signal.signal(number, ring) for number in _ALARMS.values()}
    try:
        yield
    finally:
        _set_alarms(0, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_alarms(*seconds: float) -> None:
    for timer, until in zip(_ALARMS, seconds, strict=True):
        signal.setitimer(timer, until)


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
    file, accepted, number, wrong = tmp_path / "odd.yaml", 0, 0, list[str]()
    deadline = time.monotonic() + (seconds or 0.0)
    with _alarms():
        while number < _FEWEST or time.monotonic() < deadline:
            content = odd_specification(random.Random(f"{seed}-{number}"))
            file.write_bytes(content)
            fault = _fault(file, capsys)
            accepted += fault is None
            if fault:
                wrong.append(f"ATTACK_SEED={seed}, specification {number}: {fault}\n{content[:3000]!r}")
            number += 1
    print(f"{number} specifications, {accepted} of them sweeps, {len(wrong)} faults")
    assert not wrong, f"{len(wrong)} of {number}\n" + "\n".join(wrong[:10])
    assert 0 < accepted < number, "both kinds are tried"


@pytest.mark.parametrize(("pause", "longest"), [(0.0, (0.2, 100.0)), (1000.0, (100.0, 0.2))])
def test_a_command_that_computes_or_waits_too_long_is_a_fault(
    pause: float,
    longest: tuple[float, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def endless(*_: object) -> None:
        while True:
            time.sleep(pause)

    monkeypatch.setattr("recallfront.sweeps.load.load_study", endless)
    with _alarms():
        assert "took longer than" in (_fault(tmp_path / "odd.yaml", capsys, longest) or "")


def _fault(
    file: Path, capsys: pytest.CaptureFixture[str], longest: tuple[float, float] = _LONGEST
) -> str | None:
    """What is wrong with how the command takes this specification: None if it is a sweep, "" if it is refused well."""
    _set_alarms(*longest)
    try:
        code = run(["run", str(file), "--home", str(file.parent / "home")])
    except Accepted:
        capsys.readouterr()
        return None
    except TooLong:
        return "took longer than {:g} s of the processor, or {:g} s of the clock".format(*longest)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        _set_alarms(0, 0)
    told = capsys.readouterr().err
    lines = told.splitlines()
    if code == 2 and len(lines) == 1 and lines[0].startswith("recallfront: ") and "Traceback" not in told:
        return ""
    return f"exit code {code}, {told!r}"
