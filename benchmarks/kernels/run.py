"""Tests first, then the benchmarks: no figure where a test is red."""

import faulthandler
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from recallfront.benchmarks.kernels import attention, elementwise, grouped, steps
from recallfront.benchmarks.kernels.cases import OURS, Case, CaseSuite, Setting
from recallfront.benchmarks.kernels.rows import ResultRow, append, rows_of
from recallfront.benchmarks.kernels.targets import verdicts
from recallfront.benchmarks.kernels.timing import Ceilings, Stopwatch, ceilings, interleaved, within
from recallfront.kernels.common.backend import kernels_missing

# attention last: compiling its peers takes minutes, and what has run before them is safe
CASE_SUITES: tuple[CaseSuite, ...] = (elementwise.suite, steps.suite, grouped.suite, attention.suite)
_LONGEST, _LONGEST_TESTS = 515.0, 240.0  # seconds in all, and of the tests
_GRACE = 15.0  # after which a process that hangs in a kernel is ended
_ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/kernels/triton", "tests/models/decoding/test_decode_graph.py")


def main(
    suites: Iterable[CaseSuite] = CASE_SUITES, *, output: Path | None = None, tests: Sequence[str] = TESTS
) -> int:
    """Run the kernels' tests and then the benchmarks on this machine's GPU; print rows and verdicts, write the rows.

    Returns 0, 1 where a test failed (and nothing was timed), or 2 where the kernels cannot be run or tested.
    """
    start = time.monotonic()
    obstacle = cannot_run()
    if obstacle is not None:
        print(f"make gpu: {obstacle}; nothing was tested or timed")
        return 2
    faulthandler.dump_traceback_later(_LONGEST + _GRACE, exit=True)
    if run_tests(tests) != 0:
        print("make gpu: the kernels' tests failed; no figure is taken")
        faulthandler.cancel_dump_traceback_later()
        return 1
    print(f"tests passed in {time.monotonic() - start:.0f} s", flush=True)
    device = torch.device("cuda", 0)
    name = torch.cuda.get_device_name(device).replace(" ", "-").lower()
    path = output or Path(__file__).parent / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    rows = benchmark(suites, Setting(device), deadline=start + _LONGEST, path=path)
    print(f"{len(rows)} rows in {path}, {time.monotonic() - start:.0f} s")
    faulthandler.cancel_dump_traceback_later()
    return 0


def cannot_run() -> str | None:
    """Why the kernels cannot be run or tested here, or None if they can."""
    if not torch.cuda.is_available():
        return "it needs a GPU and PyTorch sees none here"
    missing = kernels_missing(torch.device("cuda", 0))
    if missing is None and importlib.util.find_spec("pytest") is None:
        missing = "the tests come first and pytest is not installed (pip install pytest)"
    return missing


def run_tests(tests: Sequence[str] = TESTS, *, seconds: float = _LONGEST_TESTS) -> int:
    """The exit status of the kernels' tests, on the GPU, side by side where pytest can.

    Warnings are no failures here: the versions are this machine's.
    """
    command = [sys.executable, "-m", "pytest", *pytest_arguments(tests)]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(max(1, min(12, (os.cpu_count() or 2) - 2)))]
    try:
        return subprocess.run(
            command, cwd=_ROOT, check=False, timeout=seconds, env=os.environ | {"OMP_NUM_THREADS": "1"}
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"the tests took longer than {seconds:.0f} s")
        return 1


def pytest_arguments(tests: Sequence[str] = TESTS) -> list[str]:
    """What pytest is told: the tests need torch, Triton and pytest alone, so the project's own settings are left out,
    which name plug-ins of pytest, and what the rest of the tests shares.
    """
    found = ["-q", "--maxfail=20", "-m", "not slow", "-W", "default", "-p", "no:cacheprovider"]
    found += ["-c", os.devnull, f"--rootdir={_ROOT}", "--import-mode=importlib"]
    return [*found, "--confcutdir=tests/kernels/triton", *tests]


def benchmark(
    suites: Iterable[CaseSuite], setting: Setting, *, deadline: float, path: Path | None = None
) -> list[ResultRow]:
    """Rows of every case that begins before the deadline (by time.monotonic), and what they say of the targets.

    Prints them as they come, and appends the rows to the file `path`. A case has at most its `seconds`, and less
    where the deadline comes sooner.
    """
    watch = Stopwatch(setting.device)
    measured = ceilings(watch, tiny=setting.tiny)
    print(_ceilings("at first", measured), flush=True)
    rows: list[ResultRow] = []
    unmeasured: list[Case] = []
    for suite in suites:
        for case in suite(setting):
            found = _measure(case, watch, measured, deadline - time.monotonic())
            unmeasured += [] if any(row.candidate == OURS for row in found) else [case]
            if path is not None:
                append(found, path)
            rows += found
    if time.monotonic() < deadline:
        print(_ceilings("at last", ceilings(watch, tiny=setting.tiny)))
    print("\n".join(["", *(line for verdict in verdicts(rows, unmeasured) for line in verdict.lines())]))
    return rows


def _measure(case: Case, watch: Stopwatch, measured: Ceilings, left: float) -> list[ResultRow]:
    if left <= 0:
        print(f"{case.name}: no time was left", flush=True)
        return []
    end = time.monotonic() + min(case.seconds, left)
    try:
        with within(end - time.monotonic()):
            candidates = case.make()
        timings, failures = interleaved(candidates, watch, seconds=end - time.monotonic(), apart=case.apart)
    except Exception as error:  # one case must not end the benchmark
        print(f"{case.name}: {type(error).__name__}: {error}", flush=True)
        return []
    found = rows_of(case, timings, measured, watch.device)
    told = [f"{case.name}: {name} gave no time: {reason}" for name, reason in failures.items()]
    print("\n".join([*(row.line() for row in found), *told]), flush=True)
    del candidates  # their tensors are gone before those of the next case
    if watch.device.type == "cuda":
        torch.compiler.reset()  # each case compiles its own: no limit on how often, and the memory is free again
        torch.cuda.empty_cache()
    return found


def _ceilings(when: str, measured: Ceilings) -> str:
    return f"{when}: copy {measured.copy / 1e12:.2f} TB/s, bf16 product {measured.product / 1e12:.0f} TFLOP/s"
