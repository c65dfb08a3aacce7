"""What a sweep of very many trials costs: its driver, trial by trial, and everything that reads what it found.

The trials are not trained: they report what a trial reports, through the real conductor, writer, publisher and store.
"""

import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recallfront.benchmarks.platform.reading import MOST_SECONDS, Waits, waits
from recallfront.benchmarks.platform.trials import bench_spec
from recallfront.platform.lineage.environment import collect
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.reports import Report, now_ms
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Planner
from recallfront.platform.search.samplers import make_search
from recallfront.platform.search.stopping import make_rules
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.publisher import Publisher
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.tracking.ledger import find_sweep
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.sweeps.data import prepare
from recallfront.sweeps.spec import SweepSpec

EARLY: Final = 100  # trials before the first window
WINDOW: Final = 40  # trials whose costs are told
_PAUSE: Final = 0.25  # seconds between the trials of a window: two at once of half a second
STEPS: Final = 20
_DELIVERY_SECONDS: Final = 4 * 3600.0  # for the store to take what it has been sent
_WRITER: Final = "mlflow-writer"
_PUBLISHER: Final = "publisher"
# what the store is asked of its queue in this process, which is empty
_NO_REQUEST: Final = "shut_down_async_logging"


@dataclass(frozen=True)
class Window:
    """CPU of the driver for some trials in a row, milliseconds a trial."""

    trials: int  # that had ended before
    driver: float  # without MLflow's writing and the front's drawing
    writing: float
    drawing: float  # by time and not by trial: 3 % of a core at most, in whichever window it falls
    requests: dict[str, float]  # to MLflow, a trial, by what they ask
    beside: float  # requests of the sweep's own run, a trial: by time, too, one in three seconds


@dataclass(frozen=True)
class ScaleRow:
    """A figure, and the most that it may be with 10,000 trials."""

    name: str
    figure: float
    unit: str = ""
    most: float | None = None


@dataclass
class Scale:
    """What a sweep of so many trials costs."""

    trials: int
    windows: list[Window] = field(default_factory=list)
    memory: int = 0  # bytes, the most that the driver held
    waits: Waits = field(default_factory=Waits)

    @property
    def growth(self) -> float:
        """How many times as much CPU a late trial takes of the driver as an early one, MLflow's writing included."""
        first, last = ((w.driver + w.writing) for w in (self.windows[0], self.windows[-1]))
        return last / first

    def rows(self) -> Iterator[ScaleRow]:
        """The figures in the order of the table."""
        for window in self.windows:
            yield ScaleRow(f"after {window.trials:,} trials: driver's CPU a trial", window.driver, "ms", 10.0)
            yield ScaleRow("  with MLflow's writing", window.driver + window.writing, "ms", 60.0)
            yield ScaleRow("  drawing the front, beside", window.drawing, "ms")
            yield ScaleRow("  requests to MLflow, a trial", sum(window.requests.values()), most=4.0)
            yield from (ScaleRow(f"    {name}", number) for name, number in window.requests.items())
            yield ScaleRow("  requests of its sweep, beside", window.beside)
        yield ScaleRow("CPU of a late trial over that of an early one", self.growth, most=1.5)
        yield ScaleRow("memory of the driver, at most", self.memory / 1e6, "MB", 1000.0)
        for name, seconds in self.waits.seconds.items():
            yield ScaleRow(name, seconds, "s", MOST_SECONDS.get(name))


def scale(home: Path, *, trials: int) -> Scale:
    """Fill a store with a grid of `trials` trials or a few more, and measure on the way and afterwards.

    They are more than `EARLY` and two windows.
    """
    spec = scale_spec(trials)
    found = Scale(spec.number_of_trials)
    uri = prepare_store(None, home)
    writer = TrackingWriter(uri, home / "spool" / "scale.sqlite")
    try:
        conductor, publisher = driver(spec, home, writer)
        with publisher:
            with _counted_requests(writer, conductor.recorder.sweep_run_id) as count:
                for at in (EARLY, found.trials - WINDOW):
                    _run(conductor, at - conductor.ran)
                    writer.flush(_DELIVERY_SECONDS)
                    found.windows.append(_window(conductor, writer, count))
        publisher.finish()
        conductor.recorder.close_sweep(finished=True, exhausted=True)
        writer.flush(600)
    finally:
        writer.close()
    found.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found.waits = waits(home, uri, spec)
    return found


def fill(home: Path, spec: SweepSpec, trials: int) -> str:
    """Write a sweep of `trials` trials into the store in `home`, as its driver does -> the id of its run."""
    uri = prepare_store(None, home)
    writer = TrackingWriter(uri, home / "spool" / f"{spec.name}.sqlite")
    try:
        conductor, publisher = driver(spec, home, writer)
        with publisher:
            _run(conductor, trials)
            writer.flush(3600)
        publisher.finish()
        conductor.recorder.close_sweep(finished=True, exhausted=True)
        writer.flush(600)
    finally:
        writer.close()
    return find_sweep(uri, spec.key).run_id


def scale_spec(trials: int) -> SweepSpec:
    """A grid of so many configurations, or a few more."""
    windows, rates = 16, -(-trials // 16)
    block: dict[str, Any] = {"architecture": "window", "pattern": "CW"}
    block["window_size"] = list(range(1, windows + 1))
    block["training.learning_rate"] = [0.001 * (1 + rate / rates) for rate in range(rates)]
    return bench_spec(block, name="scale")


def driver(spec: SweepSpec, home: Path, writer: TrackingWriter) -> tuple[Conductor, Publisher]:
    """A sweep's driver but for Ray: its conductor, whose sweep is open, and its publisher."""
    data = prepare(spec.task, home / "data")
    recorder = Recorder(writer, spec, lineage=collect(home), data=data)
    plain = spec.model_dump(mode="json")
    known = SweepRecord(run_id="", sweep_key=spec.key, name=spec.name, spec=plain, trials=())
    search = make_search(spec)
    rules = make_rules(spec, search, home / "sweeps" / f"{spec.name}.jsonl")
    conductor = Conductor(spec, Planner(spec, search, {}), recorder, known, rules)
    recorder.open_sweep()
    return conductor, Publisher(conductor, recorder, home / "fronts" / spec.name)


def _run(conductor: Conductor, trials: int, pause: float = 0.0) -> None:
    """Play so many trials: a report after the measurement, one after training, and the end."""
    for _ in range(trials):
        name = str(conductor.ran)
        plan = conductor.next(name)
        assert plan is not None, "the grid is large enough"
        measured = synthetic_figures(plan.config.key)
        trained = {
            key: measured.pop(key) for key in ("recall", "validation_recall", "loss", "validation_loss")
        }
        conductor.report(name, Report(step=0, figures=measured))
        rows = [(key, value, STEPS, now_ms()) for key, value in trained.items()]
        rows += [("loss", 4.0 - step / STEPS, step, now_ms()) for step in range(1, STEPS)]
        rows.sort(key=lambda row: row[2])
        report = Report(step=STEPS, rows=rows, figures=measured | trained, status=Status.FINISHED)
        report.details = {"rounds": 3, "seconds": {"reference": [0.1] * 9}}
        conductor.report(name, report)
        conductor.ended(name)
        time.sleep(pause)


def synthetic_figures(key: str) -> dict[str, float]:
    """What a trial of this key measures and reaches, by chance: faster ones recall less."""
    chance = random.Random(key)
    speed, luck = chance.random(), chance.random()
    recall = (1 - speed**2) * luck**0.2
    throughputs = {
        f"{name}_tokens_per_second": 1000 * (1 + 9 * speed) for name in ("prefill", "decode", "train")
    }
    spreads = {f"{name}_spread": 0.01 * value for name, value in throughputs.items()}
    others = {"state_bytes": 4096.0, "materialised_state_bytes": 4096.0, "parameters": 1e5, "busy_cores": 0.0}
    seconds = {f"{name}_seconds": 0.1 for name in ("train", "evaluate", "measure", "wait")}
    losses = {"loss": 4 * (1 - recall), "validation_loss": 4 * (1 - recall)}
    recalls = {"recall": recall, "validation_recall": recall}
    return throughputs | spreads | others | seconds | losses | recalls


def _window(conductor: Conductor, writer: TrackingWriter, count: Counter[tuple[str, bool]]) -> Window:
    """The costs of the next trials, at the pace of a sweep."""
    time.sleep(1)  # until the writer is in no hurry any more
    before = conductor.ran
    since, asked = spent(), count.copy()
    _run(conductor, WINDOW, _PAUSE)
    time.sleep(4)  # what the writer collects before it sends
    writer.flush(_DELIVERY_SECONDS)  # on a busy machine it is behind
    process, writing, drawing = (
        1e3 * (now - then) / WINDOW for now, then in zip(spent(), since, strict=True)
    )
    more = sorted((count.copy() - asked).items())
    requests = {name: number / WINDOW for (name, of_sweep), number in more if not of_sweep}
    beside = sum(number for (_, of_sweep), number in more if of_sweep) / WINDOW
    return Window(before, process - writing - drawing, writing, drawing, requests, beside)


def spent() -> tuple[float, float, float]:
    """CPU seconds of the process, of the thread that writes to MLflow, and of the one that draws the front."""
    return time.process_time(), _thread_seconds(_WRITER), _thread_seconds(_PUBLISHER)


def _thread_seconds(name: str) -> float:
    (thread,) = [thread for thread in threading.enumerate() if thread.name == name]
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


@contextmanager
def _counted_requests(
    writer: TrackingWriter, sweep_run: Callable[[], str]
) -> Iterator[Counter[tuple[str, bool]]]:
    """Count the calls of MLflow's store, each of which is one request where the store is a server.

    They are told apart by what they ask, and by whether they are about the sweep's own run.
    """
    store: Any = writer._sender._client._tracking_client.store
    public = [name for name in dir(type(store)) if not name.startswith("_") and name != _NO_REQUEST]
    names = [name for name in public if callable(getattr(store, name))]
    asked: Counter[tuple[str, bool]] = Counter()
    inner = threading.local()

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # a method of the store that calls another one is still one request
            outermost, inner.depth = getattr(inner, "depth", 0) == 0, getattr(inner, "depth", 0) + 1
            if outermost:
                run = kwargs.get("run_id", args[0] if args else None)
                asked[name, run == sweep_run()] += 1
            try:
                return method(*args, **kwargs)
            finally:
                inner.depth -= 1

        return call

    for name in names:
        setattr(store, name, counted(name, getattr(store, name)))
    try:
        yield asked
    finally:
        for name in names:
            delattr(store, name)
