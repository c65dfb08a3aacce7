import pytest
import torch

from recallfront.kernels import explain
from recallfront.kernels.report import operators


def test_every_kernel_says_what_it_covers() -> None:
    assert set(operators()) < set(explain.operators())
    for operator in operators():
        text = explain.covered(operator)
        assert text is not None and "bfloat16" in text
    assert explain.covered("gated_delta_rule") is None


def test_why_auto_takes_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "takes the PyTorch forms: PyTorch sees no GPU. Triton kernels" in explain.explain()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    for missing, said in (
        (None, "takes Triton kernels on a GPU."),
        ("it is old", "PyTorch forms: it is old."),
    ):
        monkeypatch.setattr(explain, "kernels_missing", lambda device, missing=missing: missing)
        assert said in explain.explain()
    assert "linear_scan (float32, bfloat16, float16; fewer than 4194304 channels)" in explain.explain()
    assert "gated_delta_rule, gated_linear_attention" in explain.explain()
