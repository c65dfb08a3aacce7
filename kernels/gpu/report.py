"""What the kernels cover, what `backend="auto"` takes here, and what each compiles to.

`make kernels-report` compiles for sm_80 and sm_90, on any machine, every configuration of a kernel that has changed
since its row in the operator's `compiled.csv` was written, and writes the table again. It prints registers, spills and
shared memory of each, and exits with 1 if one spills or asks for more shared memory than the chip has.
"""

import importlib
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from recallfront.kernels.common.backend import kernels_missing
from recallfront.kernels.gpu.compile_table import (
    compilations,
    complaint,
    read_table,
    table_path,
    write_table,
)
from recallfront.kernels.gpu.compiled import Resources, resources

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


def resources_of(operator: str, place: int) -> Resources:
    """What one configuration uses (a launch cannot be sent between processes; its place can)."""
    each = compilations(operator)[place]
    return resources(each.launch, each.architecture)


def main() -> int:
    names = sys.argv[1:] or operators_with_kernels()
    unknown = sorted(set(names) - set(operators_with_kernels()))
    if unknown:
        print(f"{', '.join(unknown)}: no such operator; there are {', '.join(operators_with_kernels())}")
        return 2
    columns = "{:<24} {:<30} {:>5} {:>5} {:>6} {:>4} {:>6} {:>5} {:>6}  {}"
    print(
        columns.format(
            "operator", "kernel", "arch", "warps", "stages", "regs", "spills", "stack", "shared", ""
        )
    )
    total = compiled = failed = 0
    with ProcessPoolExecutor(_PROCESSES, get_context("spawn")) as pool:
        for operator in names:
            wanted, known = compilations(operator), read_table(table_path(operator))
            missing = [place for place, each in enumerate(wanted) if each.digest not in known]
            found = dict(
                zip(missing, pool.map(resources_of, [operator] * len(missing), missing), strict=True)
            )
            known |= {wanted[place].digest: figures for place, figures in found.items()}
            write_table(table_path(operator), wanted, known)
            for each in wanted:
                launch, use = each.launch, known[each.digest]
                wrong = complaint(use, each.architecture)
                failed += bool(wrong)
                row = (operator, launch.name, f"sm_{each.architecture}", launch.num_warps, launch.num_stages)
                numbers = (use.registers, use.spills, use.stack, use.shared)
                print(
                    columns.format(*row, *numbers, f"{wrong.upper()} {launch.described()}".strip()),
                    flush=True,
                )
            total, compiled = total + len(wanted), compiled + len(missing)
    print(f"{total} kernels, {compiled} of them compiled now, {failed} spill or are too large")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
