"""Every kernel compiles for the GPUs that it is meant for, without one at hand."""

import subprocess
import sys

import pytest

from recallfront.kernels.compiled import Resources
from recallfront.kernels.report import complaint, operators


@pytest.mark.slow
@pytest.mark.parametrize("operator", operators())
def test_no_kernel_spills_or_asks_for_too_much(operator: str) -> None:
    command = [sys.executable, "-m", "recallfront.kernels.report", operator]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.endswith("0 spill or are too large\n")


def test_a_spill_and_too_much_shared_memory_are_told() -> None:
    assert complaint(Resources(registers=255, stack=0, shared=0, spills=0), 80) == ""
    assert complaint(Resources(registers=255, stack=8, shared=0, spills=4), 80) == "spills"
    assert complaint(Resources(registers=32, stack=0, shared=164 * 1024, spills=0), 80) == (
        "over 166912 bytes shared"
    )
    assert complaint(Resources(registers=32, stack=0, shared=164 * 1024, spills=0), 90) == ""


def test_an_unknown_operator_is_told() -> None:
    command = [sys.executable, "-m", "recallfront.kernels.report", "nothing"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stdout.startswith("nothing: no such operator; there are")
