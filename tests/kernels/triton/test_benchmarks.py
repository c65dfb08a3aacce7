"""The benchmarks themselves: every case runs, tiny, and computes what its peers do; what is written can be read."""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from recallfront.benchmarks.kernels import elementwise, run, steps
from recallfront.benchmarks.kernels.cases import OURS, Candidates, Case, Setting
from recallfront.benchmarks.kernels.rows import rows_of
from recallfront.benchmarks.kernels.targets import FLEX, TARGETS, Target, verdicts
from recallfront.benchmarks.kernels.timing import Ceilings, Stopwatch, Timing, difference, interleaved, within
from recallfront.benchmarks.models.decode_step import whole_steps

CEILINGS = Ceilings(copy=4e12, product=8e14)
CPU = torch.device("cpu")
TINY = Setting(CPU, tiny=True)
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there the benchmarks themselves run")
CASES = {case.name: case for suite in (*run.CASE_SUITES, whole_steps) for case in suite(TINY)}


@on_cpu
@pytest.mark.parametrize("name", CASES)
def test_candidates_compute_the_same(name: str) -> None:
    case, compared = CASES[name], 0
    candidates = case.make()
    (first, ours), *others = candidates.items()
    assert first == OURS
    output = ours()
    for other, candidate in others:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            try:
                found = candidate()
            except NotImplementedError as error:
                assert other == FLEX and "backward on CPU" in str(error)
                continue
        if other not in case.apart:
            # float32 sums of some hundred terms, in other orders: 10 bits of 24
            assert difference(found, output) < 2**-14, other
            compared += 1
    assert compared > 0 or (case.operator, case.mode) == ("window_attention", "forward + backward")


@on_cpu
def test_a_benchmark_from_its_cases_to_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    setting, end = Setting(CPU, tiny=True), time.monotonic() + 100
    rows = run.benchmark([steps.suite], setting, deadline=end, path=path)
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["candidate"] for row in read] == [row.candidate for row in rows]
    assert {row.operator for row in rows if row.candidate == OURS} == {
        case.operator for case in steps.suite(setting)
    }
    assert all(0 < row.p20 <= row.p50 <= row.p80 and row.rate > 0 for row in rows)
    for field in ("shape", "dtype", "mode", "unit", "share", "gpu", "torch", "triton", "commit", "sources"):
        assert all(row[field] for row in read)
    shown = capsys.readouterr().out
    assert "met " in shown and shown.count("decode steps: 70 % of a copy of as many bytes") == 1
    assert shown.startswith("at first: copy ") and "\nat last: copy " in shown


def test_no_case_begins_after_the_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.benchmark([elementwise.suite], TINY, deadline=0) == []
    shown = capsys.readouterr().out
    assert "linear_scan forward 1x70x32: no time was left\n" in shown
    assert "not measured scans forward: 70 % of the copy bandwidth (no figure)\n" in shown
    assert "reached" not in shown


def test_a_case_that_cannot_be_made_is_told_and_the_next_one_runs(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Candidates:
        raise RuntimeError("no memory")

    def fine() -> Candidates:
        return {OURS: lambda: torch.ones(2)}

    def suite(setting: Setting) -> Iterator[Case]:
        yield Case("first", "2", "forward", broken, moved=8)
        yield Case("second", "2", "forward", fine, moved=8)

    rows = run.benchmark([suite], TINY, deadline=time.monotonic() + 100)
    assert [row.operator for row in rows] == ["second"]
    assert "first forward 2: RuntimeError: no memory\n" in capsys.readouterr().out


def slowly() -> torch.Tensor:
    """Ten seconds, the way a compilation takes them: in Python."""
    for _ in range(1000):
        time.sleep(0.01)
    return torch.ones(2)


@pytest.mark.alone
def test_what_takes_too_long_is_cut_off() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="more than 1 s"), within(0.6):
        with pytest.raises(TimeoutError, match="more than 0 s"), within(0.1):
            slowly()
        slowly()
    candidates: Candidates = {OURS: lambda: torch.ones(2), "slow": slowly, "late": lambda: torch.ones(2)}
    timings, failures = interleaved(candidates, Stopwatch(CPU), seconds=0.3)
    assert time.monotonic() - start < 5
    assert set(timings) == {OURS} and set(failures) == {"slow", "late"}


def test_a_peer_that_fails_or_computes_something_else_has_no_timing() -> None:
    def broken() -> torch.Tensor:
        raise RuntimeError("no\n  kernel")

    candidates: Candidates = {
        OURS: lambda: torch.ones(4),
        "peer": lambda: torch.ones(4),
        "other": lambda: torch.tensor([1.0, 1.0, 1.0, 1.5]),
        "shorter": lambda: torch.ones(3),
        "not finite": lambda: torch.full((4,), float("nan")),
        "apart": lambda: torch.zeros(2),
        "broken": broken,
    }
    timings, failures = interleaved(candidates, Stopwatch(CPU), seconds=10, apart=("apart",))
    assert set(timings) == {OURS, "peer", "apart"}
    assert failures["other"] == "its result differs from ours by 25.0%"
    assert failures["broken"] == "RuntimeError: no kernel"
    assert set(failures) == {"other", "shorter", "not finite", "broken"}


def test_candidates_run_in_turns() -> None:
    turns: list[str] = []

    def candidate(name: str) -> torch.Tensor:
        turns.append(name)
        return torch.ones(1)

    candidates: Candidates = {OURS: partial(candidate, OURS), "peer": partial(candidate, "peer")}
    watch = Stopwatch(CPU)
    watch.rounds = (3, 3)
    timings, _ = interleaved(candidates, watch, seconds=10)
    assert turns == [OURS] * 3 + ["peer"] * 3 + [OURS, "peer"] * 3
    assert all(timing.p20 <= timing.p50 <= timing.p80 for timing in timings.values())


def test_verdicts(tmp_path: Path) -> None:
    case = Case("op", "8x8", "forward", dict, moved=3 * 10**9)
    timings = {OURS: Timing(0.9, 1.0, 1.1), "peer, slow": Timing(2, 3, 4), "peer": Timing(1.8, 1.9, 2.0)}
    rows = rows_of(case, timings, CEILINGS, CPU)
    assert rows[0].rate == pytest.approx(3) and rows[0].share == pytest.approx(0.75)
    targets = [
        Target("share", ("op",), share=0.7),
        Target("peer", ("op",), peer="peer", factor=2),
        Target("absent", ("op",), peer="absent"),
        Target("another", ("other",), share=0.1),
    ]
    found = verdicts(rows, targets=targets)
    assert [verdict.word for verdict in found] == ["met", "not met", "not measured", "not measured"]
    assert found[1].lines() == [
        "not met      peer (1.90 times or more in 1 cases)",
        "               op forward 8x8 bf16: 1.90 times",
    ]
    missing = Case("op", "9x9", "forward", dict, moved=1)
    assert verdicts(rows, [missing], targets)[0].word == "not measured"


def test_every_target_has_its_cases() -> None:
    full = Setting(CPU)
    cases = [case for suite in (*run.CASE_SUITES, whole_steps) for case in suite(full)]
    assert len({case.name for case in cases}) == len(cases)
    covered = {target.text: [case for case in cases if target.covers(case)] for target in TARGETS}
    counts = {text: len(found) for text, found in covered.items()}
    assert list(counts.values()) == [12, 12, 6, 6, 12, 4, 2, 2, 12, 6]
    assert {case.shape for case in covered["step of a 24-layer model: 60 % of the copy bandwidth"]} == {
        "64x2048 24 layers",
        "256x2048 24 layers",
    }
    assert all((case.moved > 0) != (case.operations > 0) for case in cases)


def test_without_a_gpu_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, "-m", "recallfront.benchmarks.models.decode_step"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stdout == (
        "make gpu: it needs a GPU and PyTorch sees none here; nothing was tested or timed\n"
    )


@on_cpu
def test_a_red_test_takes_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    red = tmp_path / "test_red.py"
    red.write_text(
        "import torch\n\ndef test_red():\n    assert torch.get_num_threads() == 1\n    assert False\n"
    )
    monkeypatch.setattr(run, "cannot_run", lambda: None)
    assert run.main(tests=[str(red)], output=tmp_path / "rows.jsonl") == 1
    assert not (tmp_path / "rows.jsonl").exists()
    shown = capfd.readouterr().out
    assert "1 failed" in shown and shown.endswith("make gpu: the kernels' tests failed; no figure is taken\n")


BARE = """
import sys
sys.modules |= dict.fromkeys(("hypothesis", "pytest_timeout", "xdist", "deepspeed", "ray", "mlflow"))
import pytest
from recallfront.benchmarks.kernels.run import pytest_arguments
sys.exit(pytest.main([*pytest_arguments(), "--collect-only"]))
"""


@on_cpu
def test_the_tests_need_few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    found = subprocess.run(
        [sys.executable, "-c", BARE], cwd=run._ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert (
        "test_report.py::" in found.stdout
        and "test_decode_graph.py::test_a_graph_is_the_step" in found.stdout
    )


@on_cpu
def test_green_tests_are_no_failure_and_long_ones_are(tmp_path: Path) -> None:
    green = tmp_path / "test_green.py"
    green.write_text(
        "import time, warnings\n\ndef test_green():\n    warnings.warn('old')\n    time.sleep(0.1)\n"
    )
    assert run.run_tests([str(green)]) == 0
    assert run.run_tests([str(green)], seconds=0.05) == 1
