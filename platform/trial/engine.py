"""Training as a DeepSpeed engine, on a GPU or a CPU, for one rank or several.

DeepSpeed is imported with the first engine, so that what trains nothing starts fast.
"""

import ctypes
import importlib
import inspect
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from recallfront.sweeps.trial import TrainingConfig

_TAG = "deepspeed"  # every rank saves under the same tag: per-rank names lose shards
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_REUSED = 32 << 20  # bytes: larger tensors get pages of their own, the most that glibc allows
_KEPT = 256 << 20  # bytes that are free before any are handed back


def prepare_process(*, threads: int, use_gpu: bool) -> None:
    """Make this process ready for DeepSpeed engines; calling it again only sets the number of threads.

    Joins the process group that Ray Train or a launcher has set up; otherwise makes one of this process alone, which
    needs no port.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # as Ray does for its workers: lineages tell the same
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    if not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("nccl" if use_gpu else "gloo", store=store, rank=0, world_size=1)
    with _without("mlflow"), silent_linker():
        import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Its shared-memory collective is compiled at the first use: users may have no compiler, and gloo serves as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Imports of `module` fail, unless it is loaded: DeepSpeed's autotuner, which nothing here uses, imports MLflow if
    it can, and that is half of the seconds that a trial's process takes to start.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's own way to say that there is none
    try:
        yield
    finally:
        del sys.modules[module]


@contextmanager
def silent_linker() -> Iterator[None]:
    """Programs that are started say nothing on stderr: DeepSpeed links against libraries to see whether they are there.

    It hides the errors itself from where `sys.stderr` writes, which in a notebook is not where programs do.
    """
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def learning_rate_ratio(training: TrainingConfig, step: int, epoch: int | None = None) -> float:
    """The share of the peak learning rate at an optimizer step (from 0); `epoch` is the number of steps of one."""
    if training.schedule == "cosine_by_epoch":
        assert epoch is not None
        cosine = 0.5 * (1 + math.cos(math.pi * (step // epoch) / max(1, math.ceil(training.steps / epoch))))
        return training.min_learning_rate_ratio + (1 - training.min_learning_rate_ratio) * cosine
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    if training.schedule == "constant":
        return 1.0
    span = max(1, training.steps - training.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - training.warmup_steps) / span)))
    return training.min_learning_rate_ratio + (1 - training.min_learning_rate_ratio) * cosine


class _AdamW(torch.optim.AdamW):
    """torch's AdamW as it is, less what tells its compiler to stay away: that imports the compiler, for 1.7 s."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def make_optimizer(
    model: nn.Module, training: TrainingConfig, epoch: int | None = None
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over a model's parameters, and the trial's schedule of its learning rate; `epoch` is the steps of one.

    It is torch's fused form, one kernel for many parameters, on a CPU as on a GPU.
    """
    # ZeRO knows torch's own class, and imports the compiler anyway
    kind = torch.optim.AdamW if training.zero_stage else _AdamW
    optimizer = kind(
        _parameter_groups(model, training), lr=training.learning_rate, betas=training.betas, fused=True
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_ratio(training, step, epoch)
    )


def make_engine(model: nn.Module, training: TrainingConfig, epoch: int | None = None) -> Any:
    """A `DeepSpeedEngine` around the model, with AdamW and the trial's schedule."""
    import deepspeed

    optimizer, schedule = make_optimizer(model, training, epoch)
    if training.zero_stage:
        _import_muon()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        dist_init_required=False,
        config={
            "train_batch_size": training.batch_size,
            "gradient_accumulation_steps": training.accumulation,
            "gradient_clipping": training.gradient_clipping,
            "zero_optimization": {"stage": training.zero_stage},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": training.precision == "bfloat16"},
            "steps_per_print": 2**31,
            "timers": {"throughput": {"enabled": False}},  # it waits for the GPU twice in each step
        },
    )
    return engine


def _import_muon() -> None:
    """ZeRO asks whether an optimizer is Muon: its import would compile a function that no trial calls, for a second."""
    # if another version has it elsewhere, it takes that second
    with environment(TORCHDYNAMO_DISABLE="1"), suppress(ImportError):
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")


@contextmanager
def environment(**changed: str) -> Iterator[None]:
    """Within, this process's environment has these variables."""
    usual = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in usual.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _parameter_groups(model: nn.Module, training: TrainingConfig) -> list[dict[str, Any]]:
    """Matrices decay; vectors (norm gains, biases, decay parameters) do if asked. DeepSpeed drops empty groups."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    least = 0 if training.decayed == "all" else 2
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= least], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim < least], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Within, every rank holds all of the weights, which ZeRO-3 spreads over the ranks; every rank enters."""
    parameters = list(model.parameters())
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters):
        yield


def save_checkpoint(engine: Any, folder: Path, state: dict[str, Any]) -> None:
    """Save weights, optimizer, schedule and `state` (plain JSON values) below `folder`; every rank calls it."""
    engine.save_checkpoint(str(folder), tag=_TAG, client_state=state)


def load_checkpoint(engine: Any, folder: Path) -> dict[str, Any]:
    """Load what `save_checkpoint` saved into an engine made for the same trial, and return `state`.

    Loading runs no code: pickles are restricted to tensors, plain values and the three classes that DeepSpeed stores.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            _, state = engine.load_checkpoint(str(folder), tag=_TAG)
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
    return dict(state)


def keep_freed_memory() -> None:
    """Reuse freed memory rather than hand it back and have it zeroed again, page by page; glibc only, else nothing.

    A training step frees as much as it takes, so this is about 4 % of it where layers are small.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _REUSED)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)
