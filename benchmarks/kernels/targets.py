"""What the kernels are held to on a GPU, and whether a run reached it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recallfront.benchmarks.kernels.cases import OURS, Case
from recallfront.benchmarks.kernels.rows import ResultRow

FLASH, CUDNN, FLEX = "FlashAttention-2", "cuDNN attention", "flex_attention"
LINEAR, COMPILED = "flash-linear-attention", "reference, compiled"
# what is over in microseconds stays below a large copy's bandwidth, on any chip
COPY = "copy of as many bytes"


@dataclass(frozen=True)
class Target:
    """For every row of ours of these operators: a share of the ceiling, or a multiple of the fastest peer's speed.

    operators: how the operator's name begins or ends; shape: what stands in the shape; peer: how the names of the
    candidates begin, so that a peer may have several forms.
    """

    text: str
    operators: tuple[str, ...]
    modes: tuple[str, ...] = ("forward", "forward + backward")
    shape: str = ""
    share: float = 0.0
    peer: str = ""
    factor: float = 1.0

    def covers(self, what: ResultRow | Case) -> bool:
        named = any(what.operator.startswith(name) or what.operator.endswith(name) for name in self.operators)
        return named and what.mode in self.modes and self.shape in what.shape


TARGETS = (
    Target("scans forward: 70 % of the copy bandwidth", ("linear_scan", "rg_lru"), ("forward",), share=0.7),
    Target("scans backward: 60 % of the copy bandwidth", ("linear_scan", "rg_lru"), ("backward",), share=0.6),
    Target("taylor_attention: 1.5 times flash-linear-attention", ("taylor_attention",), peer=LINEAR, factor=1.5),
    Target("taylor_attention: faster than FlashAttention-2", ("taylor_attention",), peer=FLASH),
    Target("window_attention, windows: faster than flex_attention", ("window_attention",), shape=" window ", peer=FLEX),
    Target("window_attention, full: at least FlashAttention-2", ("window_attention",), shape=" full", peer=FLASH),
    Target("grouped_attention: 3 times the reference, compiled", ("grouped_attention",), peer=COMPILED, factor=3),
    Target("grouped_attention: 50 % of the copy bandwidth", ("grouped_attention",), share=0.5),
    Target("decode steps: 70 % of a copy of as many bytes", ("_step",), ("step",), peer=COPY, factor=0.7),
    Target("step of a 24-layer model: 60 % of the copy bandwidth", ("decode step",), ("step",), share=0.6),
)  # fmt: skip


@dataclass(frozen=True)
class TargetResult:
    """What a run says of a target: "met", "not met" or "not measured"; what it reached; what falls short or lacks."""

    target: Target
    word: str
    reached: str
    short: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.word:<13}{self.target.text} ({self.reached})",
            *(f"{'':15}{row}" for row in self.short),
        ]


def verdicts(
    rows: Sequence[ResultRow], unmeasured: Sequence[Case] = (), targets: Iterable[Target] = TARGETS
) -> list[TargetResult]:
    """What the rows of a run say of each target, which is met where every case that it covers reaches it.

    unmeasured: cases that gave us no row.
    """
    return [_verdict(target, rows, unmeasured) for target in targets]


def _verdict(target: Target, rows: Sequence[ResultRow], unmeasured: Sequence[Case]) -> TargetResult:
    ours = [row for row in rows if row.candidate == OURS and target.covers(row)]
    reached = {row.name: _reached(target, row, rows) for row in ours}
    known = {name: value for name, value in reached.items() if value is not None}
    short = [
        f"{name}: {_told(target, value)}"
        for name, value in known.items()
        if value < (target.share or target.factor)
    ]
    missing = [f"{name}: {target.peer} has no figure" for name in reached if name not in known]
    missing += [f"{case.name}: no figure" for case in unmeasured if target.covers(case)]
    word = "not met" if short else "not measured" if missing or not known else "met"
    least = f"{_told(target, min(known.values()))} or more in {len(known)} cases" if known else "no figure"
    return TargetResult(target, word, least, (*short, *missing))


def _reached(target: Target, row: ResultRow, rows: Sequence[ResultRow]) -> float | None:
    """The share of the ceiling, or how many times as fast as the fastest form of the peer."""
    if target.share:
        return row.share
    peers = [
        other.p50 for other in rows if other.name == row.name and other.candidate.startswith(target.peer)
    ]
    return min(peers) / row.p50 if peers else None


def _told(target: Target, value: float) -> str:
    return f"{value:.1%}" if target.share else f"{value:.2f} times"
