"""Running a sweep: checks first, then the ledger, then Ray; finished trials are never run again.

Ray is imported after the checks, so that the command starts fast and refuses a mistake at once.
"""

import time
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from recallfront.platform.cluster.connection import named_cluster, ray_cluster
from recallfront.platform.cluster.fit import Room, check_resources
from recallfront.platform.cluster.watch import RayLost
from recallfront.platform.errors import UsageError, refuse_secrets
from recallfront.platform.front.claim_notes import doubtful
from recallfront.platform.front.claims import Judgement
from recallfront.platform.front.front import Front
from recallfront.platform.home import home_folder
from recallfront.platform.home.data import prepared
from recallfront.platform.home.vault import check_home
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.lineage.environment import Lineage, collect
from recallfront.platform.metrics import energies_of, rates_of
from recallfront.platform.plugins import load, ship, use, used_by
from recallfront.platform.results import tags
from recallfront.platform.results.records import SweepRecord, TrialRecord, count
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Outcome, PlannedTrial, Planner
from recallfront.platform.search.proposals import Proposal, Told, proposal_from_json
from recallfront.platform.search.rules import going_on
from recallfront.platform.search.samplers import make_search
from recallfront.platform.search.stopping import make_rules
from recallfront.platform.search.warm_start import earlier_trials
from recallfront.platform.sweep.beat import Beat, Takeover, last_driver, refuse_second_home
from recallfront.platform.sweep.cancelled import Cancellation
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.gauges import Gauges
from recallfront.platform.sweep.lock import mark_driver, only_driver
from recallfront.platform.sweep.log import log_of
from recallfront.platform.sweep.mirror import Mirror
from recallfront.platform.sweep.progress import Progress
from recallfront.platform.sweep.publisher import Publisher
from recallfront.platform.sweep.recorder import WARM_START, Recorder
from recallfront.platform.sweep.remains import forget_deleted
from recallfront.platform.sweep.rests import Rests
from recallfront.platform.sweep.second_measurement import measure_again
from recallfront.platform.sweep.variables import passed_over
from recallfront.platform.tracking.ledger import UnknownRecord, find_sweep, read_sweep
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.platform.trial.start import check_start
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps.base import canonical_json
from recallfront.sweeps.load import load_spec
from recallfront.sweeps.spec import SweepSpec

_FAREWELL_SECONDS = 10.0  # for the tracking server to hear of an interruption
_CLOSING_SECONDS = 30.0  # the same, of a driver that ends for any other reason
_SLOW_SECONDS = 15.0  # more after _FAREWELL_SECONDS, if it is slow: batch systems give 30 s in all
_DELIVERY_SECONDS = 120.0  # at the end, for what the tracking server has not taken yet


@dataclass(frozen=True)
class SweepResult:
    """How a run of a sweep ended."""

    record: SweepRecord
    front: Front | None  # None if no trial finished
    ran: int  # trials that this run ended
    answered: int  # trials that the ledger already knew
    seconds: float
    home: Path
    tracking_uri: str
    front_files: dict[str, Path] = field(repr=False)
    undelivered: int  # events that wait in the spool for the tracking server
    refused: int  # events that it will not take, kept in the spool's table `rejected`
    spool: Path
    notes: tuple[str, ...] = ()  # what the user should know of how the search went
    judgements: tuple[Judgement, ...] = field(default=(), repr=False)  # the verdicts on its claims


def run_sweep(
    spec: SweepSpec | str | Path,
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    console: Console | None = None,
    plugins: Iterable[Path | str] = (),
) -> SweepResult:
    """Run a sweep, or resume it: trials that its ledger knows are not run again.

    Args:
        spec: a specification, the name of a study, or the path of a YAML file.
        home: the folder of all outputs, or an address as s3://BUCKET/FOLDER; by default RECALLFRONT_HOME, else
            ./recallfront-home.
        tracking_uri: of the MLflow store; by default MLFLOW_TRACKING_URI, else a SQLite file in the home.
        address: of a Ray cluster to join; by default RAY_ADDRESS, else Ray is started on this machine.
        console: shows progress; by default a bar does in a notebook, and nothing elsewhere.
        plugins: files with mixers and tasks that the specification names; installed ones are loaded in any case.

    Raises:
        UsageError, SpecError: the request is not possible, raised before anything is computed; or another driver has
            taken the sweep over.
        Cancelled: another process has cancelled the sweep; it is a KeyboardInterrupt.
    """
    load(plugins)
    address = named_cluster() if address is None else address
    spec = spec if isinstance(spec, SweepSpec) else load_spec(str(spec))
    refuse_secrets(f"sweep {spec.name}: the specification", canonical_json(spec))
    use(used_by(spec.model_dump(mode="json")))
    folder = home_folder(home).resolve()
    with nullcontext() if address is None else ray_cluster(address):  # a wrong address leaves nothing behind
        told = check_resources(spec.resources)
        check_start(spec.start)
        console = console or _console()
        if told:
            _say(console, told)
        return _run_sweep(spec, folder, tracking_uri, address, console)


def _console() -> Console:
    """What shows progress if the caller has nothing for it."""
    console = Console()
    console.quiet = not console.is_jupyter
    return console


def _say(console: Console, sentence: str) -> None:
    """Print a sentence as it is."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _run_sweep(
    spec: SweepSpec, folder: Path, tracking_uri: str | None, address: str | None, console: Console
) -> SweepResult:
    started = time.time()
    for note in (*spec.notes, *doubtful(spec.claims, [spec]), *passed_over()):
        _say(console, note)
    check_home(folder)
    uri = prepare_store(tracking_uri, folder)
    check_new(spec, uri)
    refuse_second_home(spec, uri, folder, partial(_say, console))
    with (
        only_driver(spec, folder) as lease,
        Mirror(lease, _reports_folder(spec, folder), _fronts_folder(spec, folder) / "front"),
    ):
        data = prepared(spec.task, folder)
        place = Workplace(
            home=folder,
            data=data[0],
            data_digest=data[1],
            code_version=code_version(),
            precise=rates_of(spec.objectives),
            energies=energies_of(spec.objectives),
            sweep=spec.key,
            plugins=ship(folder),
        )
        spool = folder / "spool" / f"{spec.key[:16]}.sqlite"
        before = last_driver(spec.key, uri)
        writer, patience = TrackingWriter(uri, spool, last_driver=before), _CLOSING_SECONDS
        try:
            writer.flush(_DELIVERY_SECONDS)  # what a killed driver left behind belongs to the ledger
            conductor, publisher = _set_up(spec, place, writer, uri, collect(folder))
            mark_driver(spec.key, folder, conductor.recorder.driver)
            drivers = writer.note_drivers(before, conductor.recorder.driver)
            takeover = Takeover(conductor.recorder, uri, drivers, conductor.tell_time)
            for name in conductor.recorder.left_out:
                _say(console, f"the recorded diff leaves out {name}")
            # until all is delivered: who looks from another home would take the sweep for killed
            with Beat(conductor.recorder, uri):
                try:
                    with takeover:
                        with Cancellation(conductor, uri):
                            _run(conductor, publisher, place, address, console)
                            again = measure_again(
                                conductor, place, joined=address is not None, tell=partial(_say, console)
                            )
                        conductor.tell_time()
                        record = conductor.record()
                        files = publisher.finish()
                        judgements = publisher.judge()
                except (KeyboardInterrupt, RayLost) as error:
                    if lease.is_taken or takeover.has_come:
                        conductor.recorder.give_up()
                        raise UsageError(
                            f"sweep {spec.name} ({spec.key[:8]}) is now run by another driver, which continues its "
                            "trials: this one has ended"
                        ) from None
                    if not conductor.recorder.has_opened():
                        raise  # nothing is recorded yet
                    reason = conductor.interrupted()
                    publisher.tell_counts()  # before the sweep's end: who waits for that reads them then
                    conductor.recorder.interrupt_sweep(reason)
                    # a server that is away is waited for once, and a lost Ray leaves no time for a second wait
                    patience, waiting = 0.0, writer.backlog()
                    writer.flush(_FAREWELL_SECONDS)
                    if writer.backlog() < waiting and not isinstance(error, RayLost):
                        patience = _SLOW_SECONDS
                    raise
                conductor.recorder.close_sweep(
                    finished=bool(count(record)["finished"]), exhausted=conductor.is_exhausted()
                )
                writer.flush(_DELIVERY_SECONDS)
            undelivered, refused = writer.backlog(), writer.rejected()
        finally:
            writer.close(patience)
    return SweepResult(
        record=record,
        front=publisher.front,
        ran=conductor.ran,
        answered=conductor.answered,
        seconds=time.time() - started,
        home=folder,
        tracking_uri=uri,
        front_files=files,
        undelivered=undelivered,
        refused=refused,
        spool=spool,
        notes=(*conductor.notes, *filter(None, [again])),
        judgements=judgements,
    )


def check_new(spec: SweepSpec, uri: str) -> None:
    """Raise SpecError if the store does not know the sweep, and it may not begin."""
    try:
        find_sweep(uri, spec.key)
    except UnknownRecord:
        spec.check_new()


def _set_up(
    spec: SweepSpec, place: Workplace, writer: TrackingWriter, uri: str, lineage: Lineage
) -> tuple[Conductor, Publisher]:
    version = f"{place.code_version}-{place.data_digest[:8]}"
    path = _reports_folder(spec, place.home) / f"reports-{version}.jsonl"
    ledger = _ledger(spec, uri, place.home)
    record = _with_promoted(_usable(ledger, place), going_on(spec, path))
    known = replace(record, trials=tuple(trial for trial in record.trials if trial.status.is_final))
    told, unfinished, proposed = _proposals(spec, record, place)
    warm = _warm_start(spec, uri, record)
    earlier = earlier_trials(spec, warm) if warm else []
    search = make_search(spec, told, proposed, unfinished, earlier)
    planner = Planner(
        spec,
        search,
        {trial.trial_key: Outcome(trial.status, trial.metrics) for trial in known.trials},
        unfinished,
    )
    recorder = Recorder(
        writer,
        spec,
        lineage=lineage,
        data=(place.data, place.data_digest),
        stored=[trial.trial_key for trial in record.trials],
        left=[trial.trial_key for trial in record.with_status(Status.RUNNING)],
        earlier=ledger.trials,
        log=log_of(record, place.home, uri),
        warm_start=warm.sweep_key if warm else "",
        before=record.tags,
        rests=Rests(record.trials),
    )
    rules = make_rules(spec, search, path)
    for trial in known.with_status(Status.FINISHED) if rules else ():
        if not rules.knows(trial.trial_key):  # another home has its reports
            proposal = proposal_from_json(spec, tags.proposal(trial, _labels(spec)))
            config = spec.trial(proposal.block, proposal.knobs, trial.config["seed"])
            rules.learn(PlannedTrial(proposal, config.seed, config), Outcome(trial.status, trial.metrics))
    conductor = Conductor(spec, planner, recorder, known, rules, record.trials)
    return conductor, Publisher(conductor, recorder, _fronts_folder(spec, place.home))


def _reports_folder(spec: SweepSpec, home: Path) -> Path:
    return home / "sweeps" / spec.key[:16]


def _fronts_folder(spec: SweepSpec, home: Path) -> Path:
    return home / "fronts" / f"{spec.name}-{spec.key[:8]}"


def _run(
    conductor: Conductor,
    publisher: Publisher,
    place: Workplace,
    address: str | None,
    console: Console,
) -> None:
    """Run what is left to run; Ray is started only where there is something, and before anything is recorded."""
    spec, recorder = conductor.spec, conductor.recorder
    is_open = not conductor.has_trial()
    if is_open:
        recorder.open_sweep()
        # records what is impossible, and promotes what by now would not be ended
        if conductor.peek() is None:
            if (used_up := conductor.out_of_budget()) is not None:
                _say(console, used_up)
            return
    if spec.resources.gpus:
        place = replace(place, device="cuda:0")  # the one that Ray makes visible to the trial
    with ray_cluster(address):
        from recallfront.platform.sweep.tune import run_trials

        room = Room(spec.resources, spec.concurrent)
        if not is_open:
            recorder.open_sweep()
        progress = Progress(conductor, console, total=spec.number_of_trials, concurrent=room.trials())
        gauges = Gauges(conductor, recorder.backlog)
        with publisher, progress, gauges:
            run_trials(conductor, place, room)


def _ledger(spec: SweepSpec, uri: str, home: Path) -> SweepRecord:
    """What earlier runs of this sweep found."""
    plain = spec.model_dump(mode="json")
    try:
        return read_sweep(uri, spec.key, spec=plain)
    except UnknownRecord:
        forget_deleted(uri, spec.key, home)
        return SweepRecord(run_id="", sweep_key=spec.key, name=spec.name, spec=plain, trials=())


def _usable(record: SweepRecord, place: Workplace) -> SweepRecord:
    """The same with the trials of this code and this data alone."""
    version = place.code_version, place.data_digest
    return replace(record, trials=tuple(trial for trial in record.trials if trial.version == version))


def _with_promoted(record: SweepRecord, going_on: Collection[str]) -> SweepRecord:
    """A trial that was promoted when the driver ended is to be run, though the store has how it had been ended."""
    trials = [
        replace(trial, status=Status.LOST)
        if trial.trial_key in going_on and trial.status is Status.PRUNED
        else trial
        for trial in record.trials
    ]
    return replace(record, trials=tuple(trials))


def _warm_start(spec: SweepSpec, uri: str, record: SweepRecord) -> SweepRecord | None:
    """The earlier sweep that the search learns from: the one that was meant when this sweep began."""
    named = spec.search.warm_start
    return read_sweep(uri, record.tags.get(WARM_START) or named, besides=spec.key) if named else None


def _labels(spec: SweepSpec) -> list[str]:
    return [block.label for block in spec.blocks]


def _proposals(
    spec: SweepSpec, record: SweepRecord, place: Workplace
) -> tuple[list[Told], list[Proposal], int]:
    """What the sampler proposed in earlier runs: with a result if every seed has ended, else to be resumed.

    The third is how many there were: those that the ledger answered have no trial of their own.
    """
    if spec.search.method == "grid":
        return [], [], 0
    counted = tags.proposed(record)
    same = (counted.get("code_version"), counted.get("data_digest")) == (
        place.code_version,
        place.data_digest,
    )
    proposed: int = counted["number"] if same else 0
    ended: dict[int, list[TrialRecord]] = {}
    raw: dict[int, dict[str, Any]] = {}
    for trial in record.trials:
        proposal = tags.proposal(trial, _labels(spec))
        raw[proposal["number"]] = proposal
        ended.setdefault(proposal["number"], []).extend([trial] if trial.status.is_final else [])
    told: list[Told] = []
    unfinished = []
    for number, proposal in sorted(raw.items()):
        outcomes = [Outcome(trial.status, trial.metrics) for trial in ended[number]]
        proposed_then = proposal_from_json(spec, proposal)
        if len(outcomes) < len(proposed_then.seeds(spec)):
            unfinished.append(proposed_then)
        else:
            told.append((proposal, *Planner.judge(spec, outcomes)))
    return told, unfinished, max([proposed, *(number + 1 for number in raw)])
