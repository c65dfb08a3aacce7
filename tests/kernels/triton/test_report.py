"""Every kernel compiles for the GPUs that it is meant for, without one at hand."""

import importlib
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recallfront.kernels.gpu import report
from recallfront.kernels.gpu.compile_table import (
    Compilation,
    audit,
    compilations,
    complaint,
    digest,
    read_table,
    sources,
    table_path,
    write_table,
)
from recallfront.kernels.gpu.compiled import Resources, compile_for, describe, resources
from recallfront.kernels.gpu.report import operators_with_kernels


@pytest.fixture
def device() -> None:
    """Nothing is launched here: no interpreter, which this fixture of the folder would switch on."""


@pytest.mark.slow
@pytest.mark.parametrize("operator", operators_with_kernels())
def test_no_kernel_spills_or_asks_for_too_much(operator: str) -> None:
    """By the committed table; what has changed since is compiled, and a random tenth of the others."""
    seed = random.SystemRandom().randrange(2**32)
    wrong, compiled = audit(compilations(operator), read_table(table_path(operator)), share=0.1, seed=seed)
    print(f"{operator}: {len(compiled)} of {len(compilations(operator))} compiled, drawn with seed {seed}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kernel", ["conv_forward", "conv_backward"])
def test_positions_of_32_bits_compile(kernel: str) -> None:
    launches = (each.launch for each in compilations("short_conv"))
    launch = next(one for one in launches if one.name == kernel and one.signature.get("position_ptr"))
    assert compile_for(replace(launch, signature={**launch.signature, "position_ptr": "*i32"}), 80).asm[
        "cubin"
    ]


@pytest.mark.parametrize("operator", ["taylor_attention", "grouped_attention"])
def test_products_beside_float16_keep_its_digits(operator: str) -> None:
    """The interpreter multiplies exactly: only a GPU would show that tf32 has fewer digits than float32 states."""
    launches = [each.launch for each in compilations(operator)]
    half = [one for one in launches if "*fp16" in one.signature.values() and "PRECISION" in one.constants]
    assert half and {one.constants["PRECISION"] for one in half} == {"tf32x3"}


def test_a_spill_and_too_much_shared_memory_are_told() -> None:
    assert complaint(Resources(registers=255, stack=0, shared=0, spills=0), 80) == ""
    assert complaint(Resources(registers=255, stack=8, shared=0, spills=4), 80) == "spills"
    assert complaint(Resources(registers=32, stack=0, shared=164 * 1024, spills=0), 80) == (
        "over 166912 bytes shared"
    )
    assert complaint(Resources(registers=32, stack=0, shared=164 * 1024, spills=0), 90) == ""


@pytest.mark.slow
def test_a_kernel_with_too_large_a_block_spills() -> None:
    launch = compilations("gated_product")[0].launch
    found = resources(
        replace(launch, constants={**launch.constants, "ROWS": 1, "WIDTH": 8192}, num_warps=1), 90
    )
    assert complaint(found, 90) == "spills" and found.spills > 0


KERNEL = """
import triton
import triton.language as tl

SCALE: tl.constexpr = tl.constexpr(2.0)

@triton.jit
def deeper(x):
    return x + 1.0

@triton.jit
def helper(x):
    return deeper(x) * SCALE

@triton.jit
def kernel(x_ptr, n, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + place, mask=place < n)
    tl.store(x_ptr + place, helper(x), mask=place < n)
"""


def compilation(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, **options: Any) -> Compilation:
    """A configuration of the kernel above, of a module with that text."""
    name = "kernel_under_test"
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, name, raising=False)
    launch = describe(
        importlib.import_module(name).kernel, {"x_ptr": "fp32"}, **{"num_warps": 1, "BLOCK": 64} | options
    )
    monkeypatch.delitem(sys.modules, name)
    return Compilation(launch, 80, digest(launch, 80))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("place < n)\n    tl.store", "place < n, other=0.0)\n    tl.store"),
        ("x + 1.0", "x + 3.0"),
        ("2.0", "4.0"),
    ],
    ids=["kernel", "helper of a helper", "constant"],
)
def test_a_kernel_that_has_changed_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    first = compilation(tmp_path, monkeypatch, KERNEL)
    known = {first.digest: resources(first.launch, 80)}
    below = compilation(tmp_path, monkeypatch, f"# a line more\n{KERNEL}")
    assert below.digest == first.digest
    assert KERNEL.count(old) == 1
    changed = compilation(tmp_path, monkeypatch, KERNEL.replace(old, new))
    assert changed.digest not in known
    assert audit([changed], known, share=0.1, seed=0) == ([], [changed])


def test_the_digest_has_arguments_options_and_triton_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton

    first = compilation(tmp_path, monkeypatch, KERNEL)
    launch = first.launch
    others = [
        digest(launch, 90),
        digest(replace(launch, num_warps=2), 80),
        digest(replace(launch, num_stages=1), 80),
        digest(replace(launch, aligned=False), 80),
        digest(replace(launch, constants={"BLOCK": 128}), 80),
        digest(replace(launch, signature={**launch.signature, "n": "i64"}), 80),
    ]
    monkeypatch.setattr(triton, "__version__", "0.1")
    others.append(digest(launch, 80))
    assert len({first.digest, *others}) == 8


def test_a_wrong_row_is_caught_when_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [compilation(tmp_path, monkeypatch, KERNEL, BLOCK=block) for block in (32, 64, 128)]
    truth = {each.digest: resources(each.launch, 80) for each in wanted}
    path = tmp_path / "compiled.csv"
    write_table(path, wanted, truth)
    assert read_table(path) == truth
    assert audit(wanted, truth, share=1.0, seed=0)[0] == []
    for place, each in enumerate(wanted):
        false = truth | {each.digest: replace(truth[each.digest], registers=1)}
        for seed in range(8):
            wrong, compiled = audit(wanted, false, share=0.1, seed=seed)
            assert len(compiled) == 1
            assert bool(wrong) == (compiled == [each])
            assert all(f"BLOCK={32 << place}: the table has" in line for line in wrong)
    spilled = truth | {wanted[0].digest: replace(truth[wanted[0].digest], spills=3)}
    wrong, _ = audit(
        wanted, spilled, share=0.1, seed=next(s for s in range(99) if drawn(wanted, truth, s) != 0)
    )
    assert wrong == ["kernel on sm_80 fp32 BLOCK=32: spills"]


def drawn(wanted: list[Compilation], known: dict[str, Resources], seed: int) -> int:
    """The place of the one row that is drawn."""
    return wanted.index(audit(wanted, known, share=0.1, seed=seed)[1][0])


def test_helpers_are_among_the_sources() -> None:
    kernels = {each.launch.name: each.launch.kernel for each in compilations("window_attention")}
    names = {name.rsplit(".", 1)[1] for name, _ in sources(kernels["window_forward"])}
    assert {"window_forward", "attend", "load_rows", "window_forward: NEVER"} <= names


def test_an_unknown_operator_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "nothing"])
    assert report.main() == 2
    assert capsys.readouterr().out.startswith("nothing: no such operator; there are")
