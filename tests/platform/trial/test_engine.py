"""The engine: schedule, weight decay, checkpoints that come back bit for bit and run no code."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recallfront.models import build, parse_config
from recallfront.platform.trial.engine import (
    _parameter_groups,
    environment,
    learning_rate_ratio,
    load_checkpoint,
    make_engine,
    make_optimizer,
    prepare_process,
    save_checkpoint,
    silent_linker,
    whole_weights,
)
from recallfront.sweeps.trial import TrainingConfig

# DeepSpeed's ZeRO uses what torch deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning"),
]


def training(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"steps": 20, "batch_size": 4, "learning_rate": 0.01, "warmup_steps": 3} | changes
    )


def model(seed: int = 0) -> nn.Module:
    return build(parse_config({"architecture": "hawk", "vocab_size": 17, "width": 8}), seed)


@pytest.fixture(autouse=True)
def _process() -> None:
    prepare_process(threads=1, use_gpu=False)


def step(engine: Any, at: int) -> float:
    """One optimizer step on tokens that follow from `at`."""
    tokens = torch.randint(0, 17, (4, 9), generator=torch.Generator().manual_seed(at))
    logits = engine(tokens)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens.roll(-1, 1).flatten())
    engine.backward(loss)
    engine.step()
    return float(loss.detach())


def weights(engine: Any) -> dict[str, Tensor]:
    with whole_weights(engine.module):
        return {name: value.detach().clone() for name, value in engine.module.named_parameters()}


def test_the_schedule_warms_up_and_falls_to_its_end() -> None:
    config = training(min_learning_rate_ratio=0.1, steps=23)
    ratios = [learning_rate_ratio(config, at) for at in range(24)]
    assert ratios[:4] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0, 1.0]
    assert ratios[13] == pytest.approx(0.55) and ratios[23] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(ratios[3:], ratios[4:], strict=False))
    assert learning_rate_ratio(training(steps=20, warmup_steps=0), 10) == pytest.approx(0.5)
    constant = training(schedule="constant")
    assert [learning_rate_ratio(constant, at) for at in (0, 2, 3, 19)] == [
        pytest.approx(1 / 3),
        1.0,
        1.0,
        1.0,
    ]
    assert learning_rate_ratio(training(steps=3, warmup_steps=3), 3) == 1.0


def test_the_schedule_by_epoch_is_pytorchs() -> None:
    """Zoology steps `CosineAnnealingLR` after each epoch; the last epoch here is cut short."""
    config = training(schedule="cosine_by_epoch", steps=23, warmup_steps=0)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for epoch in range(6):
        for at in range(4 * epoch, min(4 * epoch + 4, 23)):
            assert learning_rate_ratio(config, at, 4) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_the_optimizer_follows_the_schedule() -> None:
    config = training()
    engine = make_engine(model(), config)
    for at in range(6):
        assert engine.get_lr()[0] == pytest.approx(0.01 * learning_rate_ratio(config, at))
        step(engine, at)
    engine.destroy()


def test_matrices_decay_and_vectors_do_not() -> None:
    own = model()
    (everything,) = _parameter_groups(own, training(weight_decay=0.3, decayed="all"))
    assert everything["weight_decay"] == 0.3 and len(everything["params"]) == len(list(own.parameters()))
    decayed, kept = _parameter_groups(own, training(weight_decay=0.3))
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim >= 2 for p in decayed["params"]} == {True} and {p.ndim for p in kept["params"]} == {1}
    assert len(decayed["params"]) + len(kept["params"]) == sum(1 for _ in own.parameters())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path, stage: int, precision: str) -> None:
    config = training(zero_stage=stage, precision=precision)
    first = make_engine(model(), config)
    for at in range(4):
        step(first, at)
    save_checkpoint(first, tmp_path / "checkpoint", {"json": '{"step": 4}'})
    saved = weights(first)
    rest = [step(first, at) for at in range(4, 8)]
    ended = weights(first)
    first.destroy()

    second = make_engine(model(seed=1), config)
    assert load_checkpoint(second, tmp_path / "checkpoint")["json"] == '{"step": 4}'
    loaded = weights(second)
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert [step(second, at) for at in range(4, 8)] == rest, "optimizer and schedule go on as they would have"
    again = weights(second)
    assert all(torch.equal(ended[name], again[name]) for name in ended)
    second.destroy()


class Malicious:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.parametrize("zipped", [True, False])
def test_loading_runs_no_code(tmp_path: Path, stage: int, zipped: bool) -> None:
    config = training(zero_stage=stage)
    engine = make_engine(model(), config)
    step(engine, 0)
    save_checkpoint(engine, tmp_path / "checkpoint", {})
    files = sorted((tmp_path / "checkpoint" / "deepspeed").glob("*.pt"))
    assert files
    for at, file in enumerate(files):
        untouched, mark = file.read_bytes(), tmp_path / f"mark-{at}"
        if zipped:
            torch.save({"module": Malicious(mark)}, file)
        else:
            file.write_bytes(pickle.dumps(Malicious(mark)))
        with pytest.raises(Exception, match="(?i)weights.only|unsupported|refused|mkdir"):
            load_checkpoint(engine, tmp_path / "checkpoint")
        assert not mark.exists()
        file.write_bytes(untouched)
    load_checkpoint(engine, tmp_path / "checkpoint")
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    engine.destroy()


def test_a_step_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.accelerator import get_accelerator

    engine, waiting = make_engine(model(), training(accumulation=2)), list[str]()

    def wait(*_: object) -> None:
        """Note the file that waits: an engine of another test may be collected meanwhile."""
        waiting.append(Path(sys._getframe(1).f_code.co_filename).name)

    monkeypatch.setattr(get_accelerator(), "synchronize", wait)
    for at in range(8):
        step(engine, at)
    assert engine.global_steps == 4 and not {"timer.py", "engine.py"} & set(waiting)


def test_preparing_again_only_sets_the_threads() -> None:
    group = torch.distributed.group.WORLD
    prepare_process(threads=2, use_gpu=False)
    assert torch.get_num_threads() == 2 and torch.distributed.group.WORLD is group
    prepare_process(threads=1, use_gpu=False)


def test_what_probes_link_is_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    """As in a notebook, where `sys.stderr` is not descriptor 2: DeepSpeed's probes hide the former alone."""
    with silent_linker():
        subprocess.run(["sh", "-c", "echo ld: cannot find -laio >&2"], check=True)
    subprocess.run(["sh", "-c", "echo after >&2"], check=True)
    assert capfd.readouterr().err == "after\n"


def test_a_changed_environment_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECALLFRONT_A", "before")
    monkeypatch.delenv("RECALLFRONT_B", raising=False)
    with pytest.raises(KeyError), environment(RECALLFRONT_A="1", RECALLFRONT_B="2"):
        assert (os.environ["RECALLFRONT_A"], os.environ["RECALLFRONT_B"]) == ("1", "2")
        raise KeyError
    assert os.environ["RECALLFRONT_A"] == "before" and "RECALLFRONT_B" not in os.environ


WHOLE_TRIALS = """
import sys, tempfile
from pathlib import Path
from tests.platform.trial.test_engine import load_checkpoint, make_engine, model, save_checkpoint, step, training
from tests.platform.trial.trials import run
with tempfile.TemporaryDirectory() as folder:
    for architecture in ("hawk", "based"):
        *_, last = run(Path(folder) / architecture, space=[{"architecture": architecture}])
        print(last.status.value)
    engine = make_engine(model(), training())
    save_checkpoint(engine, Path(folder), {})
    load_checkpoint(engine, Path(folder))
    step(engine, 0)
print("torch._dynamo" in sys.modules)
"""


def test_a_trials_process_does_not_import_torchs_compiler() -> None:
    """It would take a third of the seconds in which such a process starts."""
    ran = subprocess.run([sys.executable, "-c", WHOLE_TRIALS], capture_output=True, text=True, check=True)
    assert ran.stdout.split()[-3:] == ["finished", "finished", "False"]


def test_the_optimizer_is_torchs_bit_for_bit() -> None:
    config = training(weight_decay=0.3)
    ours, theirs = model(), model()
    optimizer, _ = make_optimizer(ours, config)
    reference = torch.optim.AdamW(
        _parameter_groups(theirs, config), lr=optimizer.param_groups[0]["lr"], betas=config.betas, fused=True
    )
    tokens = torch.randint(0, 17, (4, 9), generator=torch.Generator().manual_seed(5))
    for _ in range(5):
        for own, its in ((ours, optimizer), (theirs, reference)):
            its.zero_grad()
            nn.functional.cross_entropy(own(tokens).flatten(0, 1), tokens.flatten()).backward()
            its.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert type(make_optimizer(ours, training(zero_stage=1))[0]) is torch.optim.AdamW, "ZeRO asks for it"
    saved, expected = optimizer.state_dict(), reference.state_dict()
    assert saved["state"].keys() == expected["state"].keys()
    for of, entry in expected["state"].items():
        assert all(torch.equal(value, saved["state"][of][name]) for name, value in entry.items())
