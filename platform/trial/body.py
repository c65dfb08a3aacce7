"""The body of a trial: build, measure, train, evaluate, save. It knows nothing of Ray or MLflow.

It is a generator of reports: what runs it (a warm actor, a Ray Train worker, a rerun in this process) takes one
after the other, may stop in between, and learns from the last one how the trial ended.
"""

import resource
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import Any

import torch

from recallfront.models import save as save_model
from recallfront.platform.errors import is_machine_fault, one_line, root_cause, without_secrets
from recallfront.platform.home import check_files, file_digests, write_whole
from recallfront.platform.home.data import bring_data
from recallfront.platform.home.vault import fetch_folder, forget, is_remote, keep_file, keep_folder, read_kept
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.lineage.environment import collect
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status, TrialFailure
from recallfront.platform.trial.checkpoints import remove_checkpoint, remove_here
from recallfront.platform.trial.engine import prepare_process, whole_weights
from recallfront.platform.trial.holding import held, in_turn, is_own
from recallfront.platform.trial.leaving import LEFT, Leaving
from recallfront.platform.trial.measure import as_metrics, measured
from recallfront.platform.trial.nodes import on_every_rank
from recallfront.platform.trial.output import Output
from recallfront.platform.trial.quiet import Device, aside
from recallfront.platform.trial.start import merge_adapters, starting_model
from recallfront.platform.trial.training import Training
from recallfront.platform.trial.workplace import RESULT, TRIALS, WEIGHTS, Workplace
from recallfront.sweeps.base import seal, unseal
from recallfront.sweeps.data import load_or_rebuild
from recallfront.sweeps.trial import TrialConfig

_WEIGHT_DIGESTS = "weight_digests"  # key of the result


class OtherCode(TrialFailure):
    """This process does not run the code that the sweep's results are of."""

    status = Status.LOST


def run_trial(
    config: TrialConfig, place: Workplace, told_to_leave: Event | None = None
) -> Generator[Report, None, None]:
    """Run a trial and report; the last report has the status it ended with. Raises nothing that the trial does.

    A trial that has a checkpoint in its folder continues from it; one that has ended there only reports how.
    Once `told_to_leave` is set, a trial that is trained is checkpointed at its next step, and its last report is lost.
    """
    notices: list[str] = []
    last, output, leave = Report(step=0), Output(), told_to_leave or Event()
    try:
        with held(place.folder(config), place, leave):
            with aside():
                end = _ended(config, place, notices)
            if end is None:
                _check_code(place)
                with output.heard():
                    for report in _body(config, place, notices, leave):
                        report.output = output.take()
                        last = report
                        if report.status is Status.RUNNING:
                            yield report
                    end = last
        yield end  # when others may have the folder: this process may rest here until it gets another trial
        return
    # the sweep continues, whatever a trial does: it is recorded with its traceback
    except Exception as error:
        status, failure = _classify(error)
        figures = dict(last.figures)
        if status is Status.OUT_OF_MEMORY:
            figures["peak_memory_bytes"] = float(_peak_memory(place.device))
        folder = place.folder(config)
        if status.is_final and place.rank == 0 and is_remote(folder):
            with suppress(OSError), in_turn(folder):  # a full disk
                if is_own(folder, place.sweep):
                    remove_here(folder)
        yield Report(
            step=last.step,
            figures=figures,
            seconds=last.seconds,
            status=status,
            failure=failure,
            details={LEFT: True} if isinstance(error, Leaving) else {},
            traceback=without_secrets(traceback.format_exc()) if status is Status.ERROR else None,
            output=output.take(),
        )


def _body(
    config: TrialConfig, place: Workplace, notices: list[str], told_to_leave: Event
) -> Iterator[Report]:
    place.enter()
    prepare_process(threads=config.resources.threads, use_gpu=place.device.startswith("cuda"))
    with (
        closing(Device(place.device)) as device,
        _limited_memory(config.resources.memory_gb),
    ):
        with aside():
            notices += bring_data(place.data)
            data, damage = load_or_rebuild(config.task, place.data, place.data_digest)
        start = time.perf_counter()
        figures, details = _measure(config, place, device)
        measure_seconds = time.perf_counter() - start
        notices += [notice for notice in (damage, details.pop("notice", None)) if notice]
        with aside():
            model = starting_model(config)
        figures["parameters"] = float(sum(p.numel() for p in model.parameters()))
        yield Report(
            step=0,
            figures=dict(figures),
            seconds={"measure": measure_seconds},
            details=details,
            environment=_environment(place.home, place.code_version),
            notices=list(notices),
        )
        with aside():  # the first one of a process imports DeepSpeed
            started = Training(config, model, data, place, device, told_to_leave)
        with closing(started) as training:
            for report in training.run(figures):
                report.seconds["measure"] = measure_seconds
                report.notices[:0] = notices
                # of the test split: its training is over
                if "recall" in report.figures:
                    training.uploads.close()
                    with aside():
                        report = _finish(config, place, model, report, details, training.history)
                yield report


def _check_code(place: Workplace) -> None:
    """A node with other code, or sources that were changed meanwhile, would give results in the name of these."""
    if (own := code_version()) != place.code_version:
        raise OtherCode(
            f"its process runs code {own}, the sweep's driver {place.code_version}: sources have changed, run it again"
        )


@lru_cache(maxsize=1)  # a process's lineage does not change from trial to trial of one sweep
def _environment(home: Path, code: str) -> dict[str, Any]:
    return collect(home).model_dump(mode="json")


def _measure(
    config: TrialConfig, place: Workplace, device: Device
) -> tuple[dict[str, float], dict[str, Any]]:
    """Known before training, because throughput and state size do not depend on the weights; rank 0 measures."""
    if place.rank != 0:
        return {}, {}
    found = measured(
        config,
        device=device,
        folder=place.measurements,
        code_version=place.code_version,
        fresh=place.remeasure,
        precise=place.precise,
        energies=place.energies,
    )
    return as_metrics(found)


def _finish(
    config: TrialConfig,
    place: Workplace,
    model: Any,
    report: Report,
    details: dict[str, Any],
    history: list[Any],
) -> Report:
    """Save weights and result; from then on the trial has ended, whatever becomes of its driver.

    No lock reaches from one machine to another: of a home at an address, the result that is kept first is everyone's.
    """
    folder = place.folder(config)
    if is_remote(folder) and (first := _ended(config, place, report.notices)):
        remove_checkpoint(folder)
        notices = [*report.notices, "another machine has ended the trial meanwhile: its result is used"]
        # the last rows hold what this training came to
        rows = [row for row in report.rows if row[0] not in first.figures]
        return replace(first, rows=rows, notices=notices)
    report.figures["measure_seconds"] = report.seconds["measure"]
    report.status, report.details = Status.FINISHED, details
    with whole_weights(model):
        if place.rank == 0:
            merge_adapters(model, config)
            save_model(model, folder / WEIGHTS)
    if place.rank == 0:
        report.weights = str(folder / WEIGHTS)
        whole = report.to_json() | {
            "rows": history,
            "environment": _environment(place.home, place.code_version),
            _WEIGHT_DIGESTS: file_digests(folder / WEIGHTS),
        }
        write_whole(folder / RESULT, seal(whole))
        if place.scratch == TRIALS:
            _keep_result(folder)
        remove_checkpoint(folder)
    return report


def _keep_result(folder: Path) -> None:
    """The weights first: whoever finds the result finds them."""
    keep_folder(folder / WEIGHTS)
    keep_file(folder / RESULT)


def _ended(config: TrialConfig, place: Workplace, notices: list[str]) -> Report | None:
    """How the trial has ended, if it has: rank 0 says so, as another node may not know, or know what is not kept."""
    found = _read_result(place.folder(config), notices) if place.rank == 0 else None
    told = on_every_rank(lambda: found and found.to_json(), place)
    return found or (Report.from_json(told) if told else None)


def _read_result(folder: Path, notices: list[str]) -> Report | None:
    """How a trial ended in this folder; a damaged result is dropped with a notice, and the trial runs again.

    Raises OSError, and drops nothing, where the machine or the store keeps it from being read.
    """
    path = folder / RESULT
    if path.exists():
        report = _checked(folder, path.read_bytes(), notices)
        if report is not None:  # its process may have been killed before it had kept it
            _keep_result(folder)
            return report
        path.unlink()
    content = read_kept(path)
    if content is None:
        return None
    notices += fetch_folder(folder / WEIGHTS)
    report = _checked(folder, content, notices)
    if report is None:
        forget(path)
        return None
    # last: whoever finds it finds the weights
    write_whole(path, content.decode("utf-8", errors="replace"))
    return report


def _checked(folder: Path, result: bytes, notices: list[str]) -> Report | None:
    """The report in the bytes of a result; None, with a notice, if they or the weights in the folder are damaged."""
    try:
        document = unseal(result)
        check_files(folder / WEIGHTS, document.pop(_WEIGHT_DIGESTS))
        report = Report.from_json(document)
    except (OSError, ValueError, TypeError, KeyError) as error:
        if is_machine_fault(error):
            raise
        notices.append(f"a damaged result was dropped ({RESULT}: {one_line(error)})")
        return None
    report.weights = str(folder / WEIGHTS)  # the home may have been moved
    return report


def _classify(error: Exception) -> tuple[Status, str]:
    message = one_line(error)
    if isinstance(error, TrialFailure):
        return error.status, message
    # the machine's fault, not the trial's: a later run of the sweep tries again
    if is_machine_fault(error):
        return Status.LOST, root_cause(error)
    if isinstance(error, RuntimeError) and "PytorchStreamWriter failed" in message:
        return Status.LOST, f"a file could not be written, the disk may be full: {message}"
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if out_of_memory or (isinstance(error, RuntimeError) and "can't allocate memory" in message):
        return Status.OUT_OF_MEMORY, message or "out of memory"
    return Status.ERROR, f"{type(error).__name__}: {message}"


def _peak_memory(device: str) -> int:
    """Bytes: the most that was allocated on the GPU, or the largest resident size of this process."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _limited_memory(gigabytes: float | None) -> Iterator[None]:
    """Let allocations beyond what the process has now plus `gigabytes` fail: no trial may take its node down."""
    status = Path("/proc/self/status")
    if gigabytes is None or not status.exists():
        yield
        return
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    in_use = int(fields["VmData"].split()[0]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(in_use + gigabytes * 2**30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
