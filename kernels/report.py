"""`make kernels-report`: every configuration of every kernel, compiled for sm_80 and sm_90, on any machine.

Prints registers, spills and shared memory of each; exits with 1 where one spills or asks for more shared
memory than the chip has.
"""

import importlib
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from recallfront.kernels.compiled import SHARED_LIMITS, Launch, Resources, resources

_PROCESSES = 2


def operators() -> list[str]:
    """Names of the operators that have kernels."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/triton.py"))


def launches(operator: str) -> list[Launch]:
    """Every configuration in which the kernels of an operator may be launched."""
    module = importlib.import_module(f"recallfront.kernels.{operator}.triton")
    found: list[Launch] = module.launches()
    return found


def examine(operator: str, place: int, architecture: int) -> Resources:
    """What one configuration uses (a launch cannot be sent between processes; its place can)."""
    return resources(launches(operator)[place], architecture)


def complaint(found: Resources, architecture: int) -> str:
    """What is wrong with a compiled kernel, or nothing."""
    limit = SHARED_LIMITS[architecture]
    wrong = ["spills"] if found.spills or found.stack else []
    return ", ".join(wrong + ([f"over {limit} bytes shared"] if found.shared > limit else []))


def main() -> int:
    wanted = sys.argv[1:] or operators()
    unknown = sorted(set(wanted) - set(operators()))
    if unknown:
        print(f"{', '.join(unknown)}: no such operator; there are {', '.join(operators())}")
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
            jobs, pool.map(examine, *zip(*jobs, strict=True)), strict=True
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
