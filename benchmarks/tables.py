"""`recallfront bench`: recallfront's own figures, as tables of medians.

A benchmark is imported when it is run, so that a wrong name is refused at once.
"""

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recallfront.benchmarks.platform.writer_rate import writer_rate
from recallfront.benchmarks.search.table import search_table
from recallfront.platform.errors import UsageError
from recallfront.platform.metrics import THROUGHPUTS


def run_benchmarks(names: list[str], against: Path | None = None, trials: int | None = None) -> None:
    """Run the benchmarks of these names, or all of them, and print a table for each.

    Args:
        against: a checkout of google-deepmind/recurrentgemma or HazyResearch/zoology, which `models` is compared with,
            and `launchers` with the second.
        trials: how many `scale` is to run.

    Raises:
        UsageError: there is no benchmark of that name, or `trials` are asked for without `scale`.
    """
    benchmarks = _BENCHMARKS | {"launchers": partial(_launchers, against=against)}
    if trials is not None:
        benchmarks["scale"] = partial(_scale, trials=trials)
    unknown = [name for name in names if name not in benchmarks]
    if unknown:
        raise UsageError(f"benchmark {unknown[0]!r}: must be one of {', '.join(benchmarks)}")
    if trials is not None and "scale" not in (names or benchmarks):
        raise UsageError(f"--trials {trials}: the benchmark scale alone takes it, and is not asked for")
    console = Console()
    for name in names or benchmarks:
        with tempfile.TemporaryDirectory(prefix="recallfront-bench-", ignore_cleanup_errors=True) as folder:
            console.print(benchmarks[name](Path(folder)))
        if name == "models":
            from recallfront.benchmarks.platform.architectures import architecture_tables

            architecture_tables(against, console.print)


def _overhead(home: Path) -> Table:
    from recallfront.benchmarks.platform.overhead import overheads

    found = overheads(home)
    table = _table("overhead: a one-worker trial's seconds beyond training, evaluation and measurement")
    for name, seconds in (("warm actor", found.warm), ("nested TorchTrainer", found.nested)):
        table.add_row(name, f"{statistics.median(seconds):.3f} s", _range(seconds, "s"), str(len(seconds)))
    table.caption = f"a warm trial costs {found.ratio:.0f} times less"
    return table


def _warm(home: Path) -> Table:
    from recallfront.benchmarks.platform.warmth import warmth

    found = warmth(home)
    table = _table("warm: one actor, trial after trial, six architectures in turn")
    mebibytes = [size / 2**20 for size in found.resident_bytes]
    table.add_row(
        "resident memory", f"{statistics.median(mebibytes):.0f} MiB", _range(mebibytes, "MiB"), "50"
    )
    same = "the same bits" if found.identical else "NOT the same"
    table.caption = f"{found.growth:+.1%} after the tenth trial; losses of trial 1, run again as 50: {same}"
    return table


def _quiet(home: Path) -> Table:
    from recallfront.benchmarks.platform.quietness import quietness

    found = quietness(home)
    table = _table("quiet: throughput measured alone, and beside trials on every core (tokens/s)")
    for name, alone in found.alone.items():
        short, beside = name.removesuffix("_tokens_per_second"), found.beside[name]
        table.add_row(
            f"{short} alone", f"{statistics.median(alone):,.0f}", _range(alone, ""), str(len(alone))
        )
        ratio = f"{found.ratio(name):.3f} of it"
        table.add_row(
            f"{short} beside trials", f"{statistics.median(beside):,.0f}", _range(beside, ""), ratio
        )
    return table


def _tracking(home: Path) -> Table:
    from recallfront.benchmarks.platform.tracking_cost import tracking_cost

    found = tracking_cost(home)
    table = _table("tracking: training with every step's metrics written to MLflow, and without")
    for name, seconds in (("tracked", found.tracked), ("not tracked", found.untracked)):
        table.add_row(name, f"{statistics.median(seconds):.2f} s", _range(seconds, "s"), str(len(seconds)))
    rate, (low, high) = writer_rate(), found.bounds
    table.caption = (
        f"{found.median:+.1%} training time, median of pairs ({low:+.1%} to {high:+.1%} with 90 % confidence); "
        f"the driver takes {found.driver_share:.1%} of a core; "
        f"the writer sustains {rate['sent_rows_per_second']:,.0f} metrics/s into SQLite"
    )
    return table


def _models(home: Path) -> Table:
    from recallfront.benchmarks.models.costs import answers_costs
    from recallfront.benchmarks.platform.throughputs import throughputs

    rates = (name.removesuffix("_tokens_per_second") for name in THROUGHPUTS)
    table = _figures("models: tokens/s of architectures at one size", *rates, "state", first="architecture")
    for found in throughputs(home):
        figures = [f"{found.figures[n]:,.0f} ±{found.figures[f'{n}_spread']:,.0f}" for n in THROUGHPUTS]
        table.add_row(found.architecture, *figures, f"{found.figures['state_bytes']:,} B")
    steps = [
        f"{cost.architecture} {1000 * cost.answers_seconds:.0f} ms instead of {1000 * cost.every_logit_seconds:.0f} "
        f"({cost.times:.1f} times)"
        for cost in answers_costs()
    ]
    table.caption = f"a training step on MQAR with logits where something is asked: {', '.join(steps)}"
    return table


def _search(home: Path) -> Table:
    return search_table()


def _scale(home: Path, trials: int = 1000) -> Table:
    from recallfront.benchmarks.platform.scale import scale

    found = scale(home, trials=trials)
    table = _figures(f"scale: a sweep of {found.trials:,} trials that only report", "", "at most")
    for row in found.rows():
        most = "" if row.most is None else f"{row.most:,g} {row.unit}"
        table.add_row(row.name, f"{row.figure:,.2f} {row.unit}", most)
    table.caption = "at most: with 10,000 trials; commands are new processes, and a page is asked for twice"
    return table


def _pages(home: Path) -> Table:
    from recallfront.benchmarks.dashboards.pages import looks

    columns = ("first paint", "picture drawn", "a filter", "a condition", "sent beyond Plotly", "looks")
    table = _figures("pages: a sweep's page in Chromium, medians", *columns, first="trials")
    for trials, own in looks(home).items():
        waits = ((o.first_paint, o.drawn, o.filtered, o.condition) for o in own)
        times = [f"{statistics.median(values):,.0f} ms" for values in zip(*waits, strict=True)]
        sent = f"{statistics.median(o.sent for o in own) / 1e3:,.0f} kB"
        table.add_row(f"{trials:,}", *times, sent, str(len(own)))
    return table


def _short(home: Path) -> Table:
    from recallfront.benchmarks.platform.short_trials import BODY_SECONDS, short_trials

    found = short_trials(home)
    table = _figures(
        f"short: {len(found.beyond)} trials of {BODY_SECONDS:g} s, two at once, in milliseconds a trial", ""
    )
    for name, seconds in (
        ("wall time beyond the body, median", statistics.median(found.beyond)),
        ("  mean", statistics.fmean(found.beyond)),
        ("CPU of the driver", found.driver),
        ("CPU of MLflow's writing, beside", found.writing),
        ("CPU of drawing the front, beside", found.drawing),
    ):
        table.add_row(name, f"{1000 * seconds:.0f}")
    return table


def _text(home: Path) -> Table:
    from recallfront.benchmarks.platform.text import OURS, SMALL, THEIRS, VOCABULARY, text_costs

    found = text_costs(home)
    table = _figures(
        f"text: {found.size / 1e6:.0f} MB of Python's sources, a BPE of {VOCABULARY:,} tokens",
        "",
        f"beyond {SMALL / 1e6:.0f} MB of text",
    )
    for name in ("driver", "trial"):
        most, few = getattr(found.large, name), getattr(found.small, name)
        more = f"{(most - few) / 2**20:,.0f} MiB"
        table.add_row(f"memory of the {name}, at most", f"{most / 2**20:,.0f} MiB", more)
    for name in (OURS, THEIRS):
        rate = statistics.median(found.rates[name]) / 1e6
        table.add_row(f"tokenizing, {name}", f"{rate:.2f} MB/s", "")
    table.caption = (
        f"recallfront tokenizes {found.ratio:.2f} times the bytes a second of {THEIRS}, median of pieces"
    )
    return table


def _upload(home: Path) -> Table:
    from recallfront.benchmarks.platform.upload_cost import apart, upload_cost

    found = upload_cost(home)
    table = _table("upload: training with checkpoints that are uploaded to a file:// address, and without")
    for name, seconds in (("uploaded", found.uploaded), ("local", found.local)):
        table.add_row(name, f"{statistics.median(seconds):.2f} s", _range(seconds, "s"), str(len(seconds)))
    low, high = (f"{1000 * bound:+.0f}" for bound in found.bounds)
    table.caption = (
        f"{1000 * found.median:+.0f} ms an upload, median of pairs ({low} to {high} ms with 90 % confidence): "
        f"{found.share:+.2%} of training with a checkpoint every {apart():g} s"
    )
    return table


def _launchers(home: Path, against: Path | None) -> Table:
    from recallfront.benchmarks.platform.launchers import launchers

    zoology = against if against is not None and (against / "zoology").is_dir() else None
    found = launchers(home, zoology)
    table = _figures(
        "launchers: a sweep of eight small configurations, two at once, from start to end",
        "median",
        "all rounds",
        "times recallfront's",
    )
    for name, seconds in found.seconds.items():
        rounds = ", ".join(f"{value:.1f}" for value in seconds)
        table.add_row(name, f"{statistics.median(seconds):.1f} s", rounds, f"{found.ratio(name):.2f}")
    table.caption = "only recallfront measures throughput, which is counted"
    return table


def _table(title: str) -> Table:
    return _figures(title, "median", "p20 to p80", "trials")


def _figures(title: str, *columns: str, first: str = "") -> Table:
    """A table without rows yet: each has a name, of the column `first`, and a figure for each of the others."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=None)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _range(values: list[float], unit: str) -> str:
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return f"{fifths[0]:,.3g} to {fifths[-1]:,.3g} {unit}".strip()


_BENCHMARKS: dict[str, Callable[[Path], Table]] = {
    "overhead": _overhead,
    "warm": _warm,
    "quiet": _quiet,
    "tracking": _tracking,
    "models": _models,
    "search": _search,
    "scale": _scale,
    "pages": _pages,
    "short": _short,
    "text": _text,
    "upload": _upload,
}
