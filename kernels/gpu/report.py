"""What the kernels cover, what `backend="auto"` takes here, and what each compiles to.

`make kernels-report` compiles every configuration of every kernel for sm_80 and sm_90, on any machine. It prints
registers, spills and shared memory of each, and exits with 1 if one spills or asks for more shared memory than
the chip has.
"""

import importlib
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from recallfront.kernels.common.backend import kernels_missing
from recallfront.kernels.gpu.compiled import SHARED_LIMITS, Launch, Resources, resources

_PROCESSES = 2


_KERNELS = Path(__file__).parents[1]


def operators() -> list[str]:
    """Names of all operators."""
    return sorted(path.parent.name for path in _KERNELS.glob("*/operator.py"))


def operators_with_kernels() -> list[str]:
    """Names of the operators that have Triton kernels."""
    return sorted(path.parent.name for path in _KERNELS.glob("*/triton.py"))


def covered(operator: str) -> str | None:
    """What the operator's kernels cover, or None where it has none."""
    if not (_KERNELS / operator / "triton.py").exists():
        return None
    text: str = importlib.import_module(f"recallfront.kernels.{operator}.coverage").COVERED
    return text


def backend_report() -> str:
    """Which form `backend="auto"` takes here and why; which operators have kernels, and for what."""
    if torch.cuda.is_available():
        missing = kernels_missing(torch.device("cuda", 0))
        where = f"on {torch.cuda.get_device_name(0)}"
    else:
        missing, where = "PyTorch sees no GPU", ""
    chosen = f"Triton kernels {where}" if missing is None else f"the PyTorch forms: {missing}"
    have = {name: covered(name) for name in operators()}
    kernels = "; ".join(f"{name} ({text})" for name, text in have.items() if text)
    without = ", ".join(name for name, text in have.items() if not text)
    return (
        f"backend='auto' takes {chosen}. Triton kernels, on a GPU: {kernels}. "
        f"The PyTorch forms: whatever these do not cover, and {without}"
    )


def launches(operator: str) -> list[Launch]:
    """Every configuration in which the kernels of an operator may be launched."""
    module = importlib.import_module(f"recallfront.kernels.{operator}.triton")
    found: list[Launch] = module.launches()
    return found


def resources_of(operator: str, place: int, architecture: int) -> Resources:
    """What one configuration uses (a launch cannot be sent between processes; its place can)."""
    return resources(launches(operator)[place], architecture)


def complaint(found: Resources, architecture: int) -> str:
    """What is wrong with a compiled kernel, or nothing."""
    limit = SHARED_LIMITS[architecture]
    wrong = ["spills"] if found.spills or found.stack else []
    return ", ".join(wrong + ([f"over {limit} bytes shared"] if found.shared > limit else []))


def main() -> int:
    wanted = sys.argv[1:] or operators_with_kernels()
    unknown = sorted(set(wanted) - set(operators_with_kernels()))
    if unknown:
        print(f"{', '.join(unknown)}: no such operator; there are {', '.join(operators_with_kernels())}")
        return 2
    jobs = [
        (operator, place, architecture)
        for operator in wanted
        for place, launch in enumerate(launches(operator))
        for architecture in launch.architectures
    ]
    if not jobs:
        print("no operator has a kernel")
        return 0
    columns = "{:<24} {:<30} {:>5} {:>5} {:>6} {:>4} {:>6} {:>5} {:>6}  {}"
    print(
        columns.format(
            "operator", "kernel", "arch", "warps", "stages", "regs", "spills", "stack", "shared", ""
        )
    )
    failed = 0
    with ProcessPoolExecutor(_PROCESSES, get_context("spawn")) as pool:
        for (operator, place, architecture), found in zip(
            jobs, pool.map(resources_of, *zip(*jobs, strict=True)), strict=True
        ):
            launch, wrong = launches(operator)[place], complaint(found, architecture)
            failed += bool(wrong)
            row = (operator, launch.name, f"sm_{architecture}", launch.num_warps, launch.num_stages)
            numbers = (found.registers, found.spills, found.stack, found.shared)
            print(columns.format(*row, *numbers, f"{wrong.upper()} {launch.described()}".strip()), flush=True)
    print(f"{len(jobs)} kernels compiled, {failed} spill or are too large")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
