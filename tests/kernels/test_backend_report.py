import shutil
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from recallfront.kernels.common import backend
from recallfront.kernels.gpu import report
from recallfront.kernels.gpu.launching import has_wide_state


def test_every_kernel_says_what_it_covers() -> None:
    assert set(report.operators_with_kernels()) < set(report.operators())
    for operator in report.operators_with_kernels():
        text = report.covered(operator)
        assert text is not None and "bfloat16" in text
    assert report.covered("gated_delta_rule") is None


def test_why_auto_takes_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "takes the PyTorch forms: PyTorch sees no GPU. Triton kernels" in report.backend_report()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    for missing, said in (
        (None, "takes Triton kernels on a GPU."),
        ("it is old", "PyTorch forms: it is old."),
    ):
        monkeypatch.setattr(report, "kernels_missing", lambda device, missing=missing: missing)
        assert said in report.backend_report()
    assert "linear_scan (float32, bfloat16, float16; fewer than 4194304 channels)" in report.backend_report()
    assert "gated_delta_rule, gated_linear_attention" in report.backend_report()


@pytest.fixture
def fresh() -> Iterator[None]:
    """What is known of GPUs is asked anew, and forgotten afterwards."""
    backend._read_gpu.cache_clear()
    yield
    backend._read_gpu.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("capability", "shared", "cc", "path", "told"),
    [
        ((8, 0), 163, "cc", "", None),
        ((9, 0), 227, None, "/usr/bin", None),
        ((9, 0), 227, None, "", "Triton needs a C compiler (gcc, clang, or the one that CC names)"),
        ((7, 5), 64, "cc", "", "the kernels need compute capability 8.0 and a GPU has 7.5"),
        ((8, 9), 99, "cc", "", "the kernels need 163 KiB of shared memory a block and a GPU has 99 KiB"),
        ((12, 0), 99, "cc", "", "the kernels need 163 KiB of shared memory a block and a GPU has 99 KiB"),
    ],
)
def test_what_kernels_need_of_a_gpu(
    capability: tuple[int, int],
    shared: int,
    cc: str | None,
    path: str,
    told: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The GPUs are described, since none of these is here."""
    about = SimpleNamespace(shared_memory_per_block_optin=shared * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: about)
    monkeypatch.setattr(shutil, "which", lambda name: f"{path}/{name}" if path else None)
    monkeypatch.delenv("CC", raising=False)
    if cc is not None:
        monkeypatch.setenv("CC", cc)
    assert backend.kernels_missing(torch.device("cuda", 0)) == told


def test_which_gpus_hold_wide_states(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, wide in (((8, 0), False), ((9, 0), True), ((10, 0), True), ((12, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, have=capability: have)
        assert has_wide_state(torch.device("cuda", 0)) == wide
    assert has_wide_state(torch.device("cpu"))
