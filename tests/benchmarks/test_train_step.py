"""Training steps beside captured ones: the benchmark itself, on a CPU, where nothing is captured."""

import subprocess
import sys

import pytest
import torch

from recallfront.benchmarks.models.train_step import _STEPS, rows_of, small_trials, train_step
from recallfront.benchmarks.platform.trials import trials_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]


def test_two_engines_of_one_trial_train_alike() -> None:
    spec = small_trials(turns=1)
    config = next(trials_of(spec))
    found = train_step(config, rows_of(spec), "cpu", turns=1)
    assert found.architecture == "attention" and found.usual > 0 and found.captured > 0
    # a rounding in float32 at each step, of losses near ln(64)
    assert found.apart <= 20 * _STEPS * torch.finfo(torch.float32).eps
    assert found.line().startswith("training step of attention ")


def test_without_a_gpu_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, "-m", "recallfront.benchmarks.models.train_step"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stdout == "training steps: they need a GPU and PyTorch sees none here; nothing was timed\n"
