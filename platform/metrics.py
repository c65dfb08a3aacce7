"""Every figure of a trial, once: what it is called, its unit, how its seeds are joined, and where it is shown.

A new metric is a line in `METRICS` beside the code that computes it. A family of metrics is one line as well: `*` in
its name stands for what tells its members apart, and `{}` in its title for the same (`recall_at_*`: "recall at {}").
A metric without a line is a plain number, called by its name, whose seeds are joined by their mean. One that may be
an objective is also named in `ObjectiveMetric` of `sweeps/objectives.py`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf, sqrt
from statistics import fmean, median
from typing import Final, Literal, get_args

from recallfront.sweeps.objectives import (
    AT_CONTEXTS,
    Objective,
    ObjectiveMetric,
    at_context,
    split_context,
)

SPREAD: Final = "_spread"  # ends the name of a measurement's own spread
BUSY_CORES: Final = "busy_cores"  # that other processes kept busy as a measurement began
# relative, of the machine's speed while throughput was measured
SPEED_UNCERTAINTY: Final = "speed_uncertainty"
_OF_ROWS: Final = re.compile(
    r"((?:.+\.)?(?:validation_)?(?:recall|perplexity))_(?:sliding_)?at_\d+(?:_stride_\d+)?"
)
IDLE_CORES: Final = 0.3  # up to so many of them a machine counts as quiet
MEASURED_AGAIN: Final = "measured_again"  # times that a measurement in doubt was repeated after the trials
_JOULES: Final = "decode_joules_per_token"


@dataclass(frozen=True)
class Metric:
    """One figure of a trial, or a family of them."""

    name: str
    title: str = ""  # as a heading; empty: the name in words
    axis: str = ""  # as the title of an axis, with the unit; empty: the title
    unit: Literal["", "bytes", "rows", "seconds"] = ""
    join: Callable[[Iterable[float]], float] = fmean  # a configuration's value from those of its seeds
    log_axis: bool = True  # whether an axis of it may be logarithmic
    most: float = inf  # the highest value that it can have; the lowest is 0
    column: bool = False  # in the tables of a front, beside its objectives
    detail: bool = False  # shown of one configuration, as when a mark of the picture is pointed at
    # What a rerun compares: every step, the last value, or nothing, for a figure that is measured again.
    rerun: Literal["curve", "final", None] = None

    @property
    def may_be_objective(self) -> bool:
        return self.name in get_args(ObjectiveMetric)

    def ends(self, value: float, spread: float) -> tuple[float, float]:
        """Where a value's spread ends, within what the metric can be."""
        return max(value - spread, min(value, 0.0)), min(value + spread, max(value, self.most))

    def show(self, value: float, spread: float | None = None) -> str:
        """A value with its spread, in the unit and with the digits that the metric deserves."""
        if self.unit == "bytes":
            return _show_bytes(value) + (f" ±{_show_bytes(spread)}" if spread else "")
        if self.unit == "seconds":
            return duration(value)
        if self.unit == "rows":
            return f"{value:,.0f}"
        if abs(value) >= 1000 or (float(value).is_integer() and abs(value) > 1):
            return f"{value:,.0f}" + (f" ±{spread:,.0f}" if spread else "")
        digits = 3 if abs(value) < 10 else 1
        return f"{value:.{digits}f}" + (f" ±{spread:.{digits}f}" if spread is not None else "")


_FIGURES: Final = (
    Metric(
        "validation_recall",
        "validation recall",
        "recall (validation)",
        log_axis=False,
        most=1.0,
        rerun="curve",
    ),
    Metric("recall", "recall on test", log_axis=False, most=1.0, detail=True, rerun="final"),
    Metric("validation_recall_at_*", "validation recall at {}", log_axis=False, most=1.0),
    Metric("recall_at_*", "recall on test at {}", log_axis=False, most=1.0),
    Metric("validation_recall_*", "validation recall, {}", log_axis=False, most=1.0),
    Metric("recall_*", "recall on test, {}", log_axis=False, most=1.0),
    Metric("validation_loss_at_position_*", "validation loss from position {}"),
    Metric("loss_at_position_*", "loss on test from position {}"),
    Metric("validation_perplexity_*", "validation perplexity, {}"),
    Metric("perplexity", "perplexity on test"),
    Metric("perplexity_*", "perplexity on test, {}"),
    Metric("bits_per_byte", "bits a byte on test"),
    Metric("loss", "training loss", rerun="curve"),
    Metric("validation_loss", rerun="curve"),
    Metric("test_loss", "loss on test", rerun="final"),
    Metric("decode_tokens_per_second", "decode tokens/s", "decoding throughput (tokens/s)", join=median),
    Metric("prefill_tokens_per_second", "prefill tokens/s", "prefill throughput (tokens/s)", join=median),
    Metric("train_tokens_per_second", "training tokens/s", "training throughput (tokens/s)", join=median),
    Metric(
        "state_bytes", "state", "decode state (bytes)", unit="bytes", column=True, detail=True, rerun="final"
    ),
    Metric("max_batch_size", "largest batch", "largest batch (rows)", unit="rows", join=median),
    Metric("time_to_first_token_p50_ms", "time to first token, p50 (ms)", join=median),
    Metric("time_to_first_token_p95_ms", "time to first token, p95 (ms)", join=median),
    Metric("time_between_tokens_p50_ms", "time between tokens, p50 (ms)", join=median),
    Metric("time_between_tokens_p95_ms", "time between tokens, p95 (ms)", join=median),
    Metric("decode_roofline_share", "decode, share of the roofline", join=median),
    Metric("prefill_roofline_share", "prefill, share of the roofline", join=median),
    Metric("train_roofline_share", "training, share of the roofline", join=median),
    Metric("speculative_exact", "drafts, texts as greedy", log_axis=False, most=1.0),
    Metric("speculative_accepted", "drafts, tokens a verification"),
    Metric("speculative_speedup", "drafts, times as fast as greedy", join=median),
    Metric(_JOULES, "decode, joules a token", join=median),
    Metric("materialised_state_bytes", "state, materialised", unit="bytes", detail=True),
    Metric(BUSY_CORES, "cores busy beside the measurement", join=max),
    Metric(SPEED_UNCERTAINTY, "uncertainty of the machine's speed", join=max),
    Metric(MEASURED_AGAIN, "times measured again", join=max),
    Metric("parameters", detail=True, rerun="final"),
    Metric("*_bytes", "{}", unit="bytes"),
    Metric("*_seconds", "{} time", unit="seconds"),
)


def _at_contexts(known: Metric) -> Metric:
    """The family of a metric's figures at several contexts."""
    axis = known.axis and f"{known.axis}, context of {{}}"
    name, title = f"{known.name}_at_*", f"{known.title} at {{}}"
    return replace(known, name=name, title=title, axis=axis, column=False, detail=False, rerun=None)


METRICS: Final = (*(_at_contexts(known) for known in _FIGURES if known.name in AT_CONTEXTS), *_FIGURES)
THROUGHPUTS: Final = ("prefill_tokens_per_second", "decode_tokens_per_second", "train_tokens_per_second")
_RATES: Final = {
    "decode_roofline_share": "decode_tokens_per_second",
    "time_between_tokens_p50_ms": "decode_tokens_per_second",
    "time_between_tokens_p95_ms": "decode_tokens_per_second",
    _JOULES: "decode_tokens_per_second",
    "prefill_roofline_share": "prefill_tokens_per_second",
    "time_to_first_token_p50_ms": "prefill_tokens_per_second",
    "time_to_first_token_p95_ms": "prefill_tokens_per_second",
    "train_roofline_share": "train_tokens_per_second",
} | {name: name for name in THROUGHPUTS}


def rate_of(name: str) -> str | None:
    """The throughput whose precision a figure has: a latency is as precise as the rate it belongs to; else None."""
    task, dot, own = name.rpartition(".")
    own, context = split_context(own)
    rate = _RATES.get(own)
    if rate is None:
        return None
    return f"{task}{dot}{rate if context is None else at_context(rate, context)}"


def rates_of(objectives: Iterable[Objective]) -> tuple[str, ...]:
    """The throughputs whose precision the objectives depend on."""
    return tuple(dict.fromkeys(filter(None, (rate_of(objective.metric) for objective in objectives))))


def energies_of(objectives: Iterable[Objective]) -> tuple[str, ...]:
    """The objectives that are a GPU's energy, at any context."""
    names = (objective.metric for objective in objectives)
    return tuple(name for name in names if split_context(name)[0] == _JOULES)


def spread_of(metrics: Mapping[str, float], name: str) -> float:
    """The spread that a measurement has, its own or as a part of it that of its rate; 0 of a figure that has none."""
    if name + SPREAD in metrics or (rate := rate_of(name)) is None:
        return metrics.get(name + SPREAD, 0.0)
    relative = metrics.get(rate + SPREAD, 0.0) / max(abs(metrics.get(rate, 0.0)), 1e-12)
    return relative * abs(metrics.get(name, 0.0))


def rate_spread(metrics: Mapping[str, float], name: str) -> float:
    """The relative spread of a rate within its own rounds, without what the machine's speed adds to its interval."""
    _, context = split_context(name)
    own = SPEED_UNCERTAINTY if context is None else at_context(SPEED_UNCERTAINTY, context)
    whole = metrics.get(name + SPREAD, 0.0) / max(abs(metrics.get(name, 0.0)), 1e-12)
    return sqrt(max(0.0, whole**2 - metrics.get(own, 0.0) ** 2))


def most_rate_spread(target: float) -> float:
    """The relative spread of a rate that a protocol allows whose `target` is about that of seconds.

    From half their p20..p80 width, s of the median, 1/seconds has at most s / (1 - 2 s).
    """
    return target / (1 - 2 * target) if target < 0.5 else inf


@lru_cache(maxsize=1024)
def metric(name: str) -> Metric:
    """What is known of a metric: its own line of `METRICS`, else the first family that it belongs to.

    One that is named after a task of a suite, such as `text.perplexity`, is what it is in that task's sweep.
    """
    task, dot, own = name.rpartition(".")
    if dot:
        known = metric(own)
        title, axis = (text and f"{_words(task)}: {text}" for text in (known.title, known.axis))
        return replace(known, name=name, title=title, axis=axis)
    exact = next((known for known in METRICS if known.name == name), None)
    if exact is not None:
        return replace(exact, title=exact.title or _words(name))
    for family in METRICS:
        before, star, after = family.name.partition("*")
        found = re.fullmatch(f"{re.escape(before)}(.+){re.escape(after)}", name) if star else None
        if found:
            part = _words(found[1])
            return replace(family, name=name, title=family.title.format(part), axis=family.axis.format(part))
    return Metric(name, _words(name))


def is_known(name: str) -> bool:
    """Whether a metric has a line of `METRICS` or is of a family that has."""
    return any(re.fullmatch(re.escape(known.name).replace(r"\*", ".+"), name) for known in METRICS)


def without_repeats(names: Iterable[str]) -> list[str]:
    """Names without the figure of one kind of rows, such as `recall_at_64`, where it is that of all rows.

    In a suite, rows are those of one of its tasks.
    """
    listed = list(names)
    wholes = [found[1] if (found := _OF_ROWS.fullmatch(name)) else None for name in listed]
    return [name for name, whole in zip(listed, wholes, strict=True) if not whole or wholes.count(whole) > 1]


def title_of(name: str) -> str:
    """A metric's name as a heading."""
    return metric(name).title


def title_of_objective(objective: Objective) -> str:
    """An objective as a heading: plain recall is the one that configurations are compared by."""
    return _words(objective.metric) if objective.is_on_both_splits else title_of(objective.metric)


def axis_title(objective: Objective) -> str:
    """The title of an objective's axis, with the unit."""
    known = metric(objective.reading)
    return known.axis or known.title


def columns_of(objectives: Sequence[Objective]) -> dict[str, str]:
    """Metric -> heading of a front's tables: the objectives, on both splits where they have two, then the state."""
    columns: dict[str, str] = {}
    for objective in objectives:
        columns[objective.reading] = title_of_objective(objective)
        columns.setdefault(objective.metric, title_of(objective.metric))
    return columns | {known.name: known.title for known in METRICS if known.column}


def details_of(objectives: Sequence[Objective]) -> dict[str, str]:
    """Metric -> heading of what is shown of one configuration: its objectives and the details."""
    first = {objective.reading: title_of_objective(objective) for objective in objectives}
    return first | {
        known.name: title_of(known.name) for known in METRICS if known.detail and known.name not in first
    }


def compared(how: Literal["curve", "final"]) -> tuple[str, ...]:
    """The metrics that a rerun compares at every step, or at the end."""
    return tuple(known.name for known in METRICS if known.rerun == how)


@lru_cache(maxsize=1024)
def named_in_condition(name: str) -> str:
    """The metric that a name in a condition stands for: plain `recall` is validation recall, since selection must not
    look at the test split; `test_recall` is the other. In a suite a metric is named after its task: `text.test_recall`.
    """
    task, dot, own = name.rpartition(".")
    if re.fullmatch(r"test_recall(_.+)?", own):
        own = own.removeprefix("test_")
    elif re.fullmatch(r"recall(_.+)?", own):
        own = f"validation_{own}"
    return f"{task}{dot}{own}"


@lru_cache(maxsize=1024)
def name_for_condition(name: str) -> str:
    """What a metric is called in a condition: the other way around."""
    task, dot, own = name.rpartition(".")
    if re.fullmatch(r"validation_recall(_.+)?", own):
        own = own.removeprefix("validation_")
    elif re.fullmatch(r"recall(_.+)?", own):
        own = f"test_{own}"
    return f"{task}{dot}{own}"


def show(name: str, value: float, spread: float | None = None) -> str:
    """A metric's value with its spread, as a person reads it."""
    return metric(name).show(value, spread)


def duration(seconds: float | None) -> str:
    """A duration as a person reads it: `42 s`, `3 min 20 s`, `5 h 07 min`; a dash for None."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _show_bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
