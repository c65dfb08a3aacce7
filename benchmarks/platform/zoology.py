"""A trial's training beside zoology's trainer: the same model of its protocol, the same rows, one thread, in turn.

Zoology's code is not part of this package: a checkout of it is named by its path.
"""

import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

from torch import Tensor, nn

from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.data import load_or_rebuild, prepare
from recallfront.sweeps.trial import TrialConfig

COMMIT: Final = "dbcb60d"  # the last one that trains MQAR
LENGTH, PAIRS, WIDTH, BATCH = 64, 8, 64, 64
# the field's vocabulary, and the smallest even one for rows of 64 tokens: MQAR needs more tokens than a row has
CASES: Final = (("attention", 8192), ("attention", 66), ("window", 66), ("based", 66))
# architecture -> its knobs, and zoology's mixer
MIXERS: Final[dict[str, tuple[dict[str, Any], str, dict[str, Any]]]] = {
    "attention": ({}, "attention.MHA", {"dropout": 0.1, "num_heads": 1}),
    "window": ({"window_size": 17}, "slide_attn.SlidingAttn", {"block_size": 16}),
    "based": (
        {"feature_dim": 16},
        "based.Based",
        {
            "feature_dim": 16,
            "feature_name": "taylor_exp",
            "num_key_value_heads": 1,
            "num_heads": 1,
            "train_view": "quadratic",
        },
    ),
}
Batches = Sequence[tuple[Tensor, Tensor]]


def why_not(path: Path) -> str | None:
    """Why the code at `path` cannot be run, in a sentence; None if it can."""
    if not (path / "zoology" / "train.py").is_file():
        return f"{path} holds no zoology/train.py: name a checkout of HazyResearch/zoology at {COMMIT}"
    if importlib.util.find_spec("einops") is None:
        return "zoology needs einops: pip install einops"
    return None


@contextmanager
def imported(path: Path) -> Iterator[None]:
    """Zoology's modules can be imported, without the packages that they import and do nothing with here."""
    before, places = dict(sys.modules), list(sys.path)
    operators = ModuleType("torchvision.ops")
    # at drop_path 0 every path is kept
    operators.StochasticDepth = lambda p, mode: nn.Identity()  # type: ignore[attr-defined]
    unused = {name: ModuleType(name) for name in ("torchvision", "opt_einsum", "wandb")}
    sys.modules.update(unused | {"torchvision.ops": operators})
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path[:] = places
        for name in {name for name in sys.modules if name.split(".")[0] == "zoology"} | {*unused}:
            del sys.modules[name]
        sys.modules.pop("torchvision.ops")
        sys.modules.update({name: before[name] for name in (*unused, "torchvision.ops") if name in before})


def their_model(
    architecture: str, *, vocabulary: int, width: int = WIDTH, length: int = LENGTH, **changes: Any
) -> nn.Module:
    """Zoology's model of an architecture, as its protocol has it; within `imported`."""
    model = importlib.import_module("zoology.model")
    settings = their_model_config(architecture, vocabulary=vocabulary, width=width, length=length, **changes)
    made: nn.Module = model.LanguageModel(settings)
    return made


def their_model_config(
    architecture: str, *, vocabulary: int, width: int = WIDTH, length: int = LENGTH, **changes: Any
) -> Any:
    """Zoology's configuration of that model; within `imported`."""
    config = importlib.import_module("zoology.config")
    _, name, settings = MIXERS[architecture]
    longest = {"l_max": length} if architecture == "based" else {}
    mixer = {"name": f"zoology.mixers.{name}", "kwargs": settings | longest | changes}
    convolution = {
        "name": "zoology.mixers.base_conv.BaseConv",
        "kwargs": {"l_max": length, "kernel_size": 3, "implicit_long_conv": True},
    }
    return config.ModelConfig(
        sequence_mixer={
            "name": "zoology.mixers.hybrid.Hybrid",
            "kwargs": {"configs": [convolution, mixer]},
        },
        state_mixer={"name": "torch.nn.Identity", "kwargs": {}},
        d_model=width,
        n_layers=2,
        max_position_embeddings=0,
        vocab_size=vocabulary,
    )


@dataclass(frozen=True)
class Against:
    """Seconds of a training step, medians over rounds in which both took turns."""

    architecture: str
    vocabulary: int
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.theirs / self.ours


def against_zoology(
    path: Path, *, cases: Sequence[tuple[str, int]] = CASES, steps: int = 20, rounds: int = 3
) -> list[Against]:
    """Both trainers on the same rows, for `steps` steps a round; the first round of each warms up and does not count.

    Raises ValueError if `why_not` has a reason.
    """
    if reason := why_not(path):
        raise ValueError(reason)
    found = []
    with tempfile.TemporaryDirectory(prefix="recallfront-zoology-") as folder:
        for architecture, vocabulary in cases:
            config = _trial(architecture, vocabulary, steps)
            data, digest = prepare(config.task, Path(folder))
            rows = load_or_rebuild(config.task, data, digest)[0].splits["train"][0]
            inputs, labels = (cast(Tensor, rows_of) for rows_of in (rows.inputs, rows.labels))
            batches = list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True))
            with imported(path):
                theirs = _their_epochs(architecture, vocabulary, batches)
            seconds = []
            for number in range(rounds + 1):
                place = Workplace(Path(folder), data, digest, code_version(), scratch=f"round-{number}")
                seconds.append((_our_seconds(config, place) / steps, theirs() / steps))
            ours, other = (statistics.median(column) for column in zip(*seconds[1:], strict=True))
            found.append(Against(architecture, vocabulary, ours, other))
    return found


def mqar_task(vocabulary: int, examples: int, held_out: int) -> dict[str, Any]:
    """The task that both train on: rows of training, and so many of validation and of test."""

    def rows(number: int) -> list[dict[str, int]]:
        return [{"input_seq_len": LENGTH, "num_kv_pairs": PAIRS, "examples": number}]

    splits = {"train": rows(examples), "validation": rows(held_out), "test": rows(held_out)}
    return {"name": "mqar", "vocab_size": vocabulary} | splits


def _trial(architecture: str, vocabulary: int, steps: int) -> TrialConfig:
    spec = SweepSpec.model_validate(
        {
            "name": "against-zoology",
            "protocol": "zoology",
            "task": mqar_task(vocabulary, BATCH * steps, BATCH),
            "model": {"width": WIDTH},
            "space": [{"architecture": architecture} | MIXERS[architecture][0]],
            "training": {"steps": steps, "batch_size": BATCH, "evaluate_every": steps},
            "objectives": [
                {"metric": "recall"},
                {"metric": "state_bytes", "direction": "min", "reference": 1e9},
            ],
        }
    )
    return spec.trial(spec.blocks[0], {}, 0)


def _our_seconds(config: TrialConfig, place: Workplace) -> float:
    last = list(run_trial(config, place))[-1]
    if last.failure is not None:
        raise RuntimeError(last.failure)
    return last.figures["train_seconds"]


def _their_epochs(architecture: str, vocabulary: int, batches: Batches) -> Callable[[], float]:
    """Seconds of an epoch of zoology's trainer over these batches, each time it is asked."""
    train: Any = importlib.import_module("zoology.train")
    train.tqdm = lambda rows, **_: _Silent(rows)
    trainer = train.Trainer(
        their_model(architecture, vocabulary=vocabulary),
        [(inputs, labels, []) for inputs, labels in batches],
        [],
        max_epochs=0,
        device="cpu",
        logger=_Silent(()),
    )
    trainer.fit()  # of no epoch: it makes the optimizer

    def seconds() -> float:
        start = time.perf_counter()
        trainer.train_epoch(0)
        return time.perf_counter() - start

    return seconds


class _Silent:
    """In the place of a progress bar and a logger: what they cost is not compared."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def set_postfix(self, values: Any) -> None:
        """Show nothing."""

    def log(self, values: Any) -> None:
        """Keep nothing."""
