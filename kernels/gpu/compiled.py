"""Compiling a kernel for a GPU that is not there, and reading what it will use of one.

Triton is imported where it is first used, since not every machine has it.
"""

import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Constant = int | float | bool | str | None

SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory a block may have, by architecture


@dataclass(frozen=True)
class Launch:
    """One configuration in which a kernel may be launched.

    signature: every argument that is not a constexpr, in the kernel's order, to its Triton type ("*bf16",
    "i32", "i64", "fp32"). constants: every constexpr. aligned: pointers and integers are multiples of 16, as
    they nearly always are, but for those that the kernel is not specialised for; Triton compiles such calls again,
    with wider loads. architectures: those on which it may be launched, where blocks are chosen by them.
    """

    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Constant] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    aligned: bool = True
    architectures: tuple[int, ...] = tuple(SHARED_LIMITS)

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    def described(self) -> str:
        """Types and constants on one line."""
        types = dict.fromkeys(kind.strip("*") for kind in self.signature.values() if kind.startswith("*"))
        constants = (f"{name}={value}" for name, value in self.constants.items())
        return " ".join([",".join(types), *constants, "" if self.aligned else "unaligned"]).strip()


def describe(
    kernel: Any,
    pointers: Mapping[str, str | None],
    *,
    num_warps: int,
    num_stages: int = 2,
    aligned: bool = True,
    floats: Collection[str] = (),
    **constants: Constant,
) -> Launch:
    """A `Launch` of `kernel` from the types of its pointers ("bf16"; None: not given) and its constexprs.

    Every other argument is a whole number that fits 32 bits, but for those named in `floats`.
    """
    given = {name: f"*{kind}" for name, kind in pointers.items() if kind is not None}
    absent = {name: None for name, kind in pointers.items() if kind is None}
    others = set(kernel.arg_names) - set(pointers) - set(constants)
    numbers = {name: "fp32" if name in floats else "i32" for name in others}
    return Launch(kernel, given | numbers, {**absent, **constants}, num_warps, num_stages, aligned)


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses. registers: a thread; stack: bytes a thread, where spills go; shared: bytes."""

    registers: int
    stack: int
    shared: int
    spills: int  # instructions that go to local memory


def arguments(launch: Launch) -> tuple[dict[str, str], dict[str, Constant], dict[Any, Any], dict[str, Any]]:
    """What Triton compiles a kernel with: signature, constants, attributes of arguments, options."""
    names = launch.kernel.arg_names
    unknown = set(names) ^ (set(launch.signature) | set(launch.constants))
    if unknown:
        raise ValueError(f"{launch.name}: {', '.join(sorted(unknown))}: neither signature nor constants fit")
    signature = {name: launch.signature.get(name, "constexpr") for name in names}
    constants = {name: launch.constants[name] for name in names if name in launch.constants}
    divisible = [["tt.divisibility", 16]]
    special = {parameter.name: not parameter.do_not_specialize for parameter in launch.kernel.params}
    attributes = {
        (place,): divisible
        for place, name in enumerate(names)
        if launch.aligned and (signature[name][0] == "*" or (signature[name][0] == "i" and special[name]))
    }
    options = {
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
        "enable_fp_fusion": True,
    }
    return signature, constants, attributes, options


def compile_for(launch: Launch, architecture: int) -> Any:
    """Triton's compiled kernel, with `asm` by stage, for compute capability 80 or 90. Needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes, options = arguments(launch)
    return triton.compile(
        ASTSource(launch.kernel, signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", architecture, 32),
        options=options,
    )


def resources(launch: Launch, architecture: int) -> Resources:
    """Compile for an architecture and read registers, stack, shared memory and spills off the machine code.

    Spills lie on the stack: the machine code is taken apart, which takes as long as half a compilation, only where
    there is one.
    """
    compiled = compile_for(launch, architecture)
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        usage = _cuobjdump("--dump-resource-usage", binary)
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
        if found is None:
            raise RuntimeError(f"{launch.name}: cuobjdump says nothing of registers:\n{usage}")
        registers, stack, local = map(int, found.groups())
        machine = _cuobjdump("--dump-sass", binary) if stack or local else ""
    return Resources(
        registers=registers,
        stack=stack + local,
        shared=int(compiled.metadata.shared),
        spills=len(re.findall(r"\b(?:LDL|STL)\b", machine)),
    )


def _cuobjdump(option: str, binary: Path) -> str:
    from triton import knobs

    tool = knobs.nvidia.cuobjdump.path
    return subprocess.run([tool, option, str(binary)], check=True, capture_output=True, text=True).stdout
