"""Every kernel compiles for the GPUs that it is meant for, without one at hand."""

import os
import subprocess
import sys

import pytest

from recallfront.kernels.gpu.compiled import Resources
from recallfront.kernels.gpu.report import complaint, operators_with_kernels


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, which compiles: the interpreter of this folder's tests is not passed on."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def run_report(operator: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "recallfront.kernels.gpu.report", operator)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # some hundred compilations
@pytest.mark.parametrize("operator", operators_with_kernels())
def test_no_kernel_spills_or_asks_for_too_much(operator: str) -> None:
    found = run_report(operator)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.endswith("0 spill or are too large\n")


def test_a_spill_and_too_much_shared_memory_are_told() -> None:
    assert complaint(Resources(registers=255, stack=0, shared=0, spills=0), 80) == ""
    assert complaint(Resources(registers=255, stack=8, shared=0, spills=4), 80) == "spills"
    assert complaint(Resources(registers=32, stack=0, shared=164 * 1024, spills=0), 80) == (
        "over 166912 bytes shared"
    )
    assert complaint(Resources(registers=32, stack=0, shared=164 * 1024, spills=0), 90) == ""


@pytest.mark.slow
def test_a_kernel_with_too_large_a_block_spills() -> None:
    code = """
from dataclasses import replace
from recallfront.kernels.gpu.compiled import resources
from recallfront.kernels.gpu.report import complaint, launches
launch = launches("gated_product")[0]
found = resources(replace(launch, constants={**launch.constants, "ROWS": 1, "WIDTH": 16384}, num_warps=1), 90)
print(complaint(found, 90), found.spills > 0)
"""
    found = run("-c", code)
    assert found.stdout == "spills True\n", found.stderr


def test_an_unknown_operator_is_told() -> None:
    found = run_report("nothing")
    assert found.returncode == 2
    assert found.stdout.startswith("nothing: no such operator; there are")
