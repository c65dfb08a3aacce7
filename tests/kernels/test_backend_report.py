import pytest
import torch

from recallfront.kernels.gpu import report


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
