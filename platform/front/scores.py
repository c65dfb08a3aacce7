"""The scores of a suite: what each architecture reaches on each task, from the sweeps in the store."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text as Plain

from recallfront.platform.front.candidates import by_configuration, gather
from recallfront.platform.front.claims import Judgement, judge_suite
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.ledger import UnknownRecord, read_sweep
from recallfront.sweeps.suite import Suite
from recallfront.sweeps.tasks.text import Text

_CHOSEN_BY, _REPORTED = "validation_recall", "recall"


@dataclass(frozen=True)
class Reached:
    """What the best configurations of one architecture reach on one task."""

    recall: float  # of the test split, the mean over the task's settings
    settings: int  # that have a finished configuration with all seeds
    run_ids: tuple[str, ...]  # the chosen configurations' best seeds, one a setting


@dataclass(frozen=True)
class Scores:
    """A table of scores by task and architecture (MAD, arXiv:2403.17844).

    In each setting of a task the configuration of the highest validation recall is chosen, and its recall on test is
    reported; MAD itself chooses on the test split. A task's score is the mean over its settings, the suite's the mean
    over tasks. Beside other tasks the suite's leaves out text, whose recall is accuracy on AR hits. Means are of what
    has finished: `missing` says where that is not all.
    """

    suite: str
    tasks: tuple[str, ...]
    settings: dict[str, int]  # of each task
    table: dict[str, dict[str, Reached]]  # architecture -> task -> score; the highest mean first
    apart: tuple[str, ...] = ()  # tasks that the mean leaves out
    judgements: tuple[Judgement, ...] = ()  # the verdicts on the suite's claims

    @property
    def means(self) -> dict[str, float]:
        """Architecture -> its mean over the tasks, of those that have finished every one of these."""
        wanted = [task for task in self.tasks if task not in self.apart]
        whole = {name: row for name, row in self.table.items() if row.keys() >= set(wanted)}
        return {name: fmean(row[task].recall for task in wanted) for name, row in whole.items()}

    @property
    def missing(self) -> int:
        """Settings of an architecture that have no finished configuration yet, over all architectures."""
        found = sum(score.settings for row in self.table.values() for score in row.values())
        return len(self.table) * sum(self.settings.values()) - found

    def columns(self) -> dict[str, list[Any]]:
        """The table by columns, as MLflow shows one; None if nothing has finished."""
        found: dict[str, list[Any]] = {"architecture": list(self.table)}
        for task in self.tasks:
            found[task] = [row[task].recall if task in row else None for row in self.table.values()]
        title = f"mean without {', '.join(self.apart)}" if self.apart else "mean"
        return found | {title: [self.means.get(name) for name in self.table]}

    def shown(self) -> Table:
        """The table for the terminal."""
        caption = "recall on test of the configurations of the highest validation recall, mean over settings"
        if self.missing:
            caption += f"; {self.missing} settings of an architecture have not finished"
        table = Table(
            title=Plain(self.suite), caption=Plain(caption), caption_justify="left", box=SIMPLE_HEAD
        )
        columns = self.columns()
        for name in columns:
            is_name = name == "architecture"
            table.add_column(Plain(name.replace("_", " ")), justify="left" if is_name else "right")
        for row in zip(*columns.values(), strict=True):
            table.add_row(*(Plain(_cell(value)) for value in row))
        return table


def scores(suite: Suite, tracking_uri: str) -> Scores:
    """The scores of a suite as far as its sweeps have come.

    Raises:
        UsageError: the store cannot be read.
    """
    records = sweeps_of(suite, tracking_uri)
    settings = {task: sum(part.task == task for part in suite.parts) for task in suite.tasks}
    found = build_scores(suite.name, settings, records, apart=_texts(suite))
    return replace(found, judgements=judge_suite(suite, records))


def _texts(suite: Suite) -> tuple[str, ...]:
    """The tasks on text, unless all are."""
    found = dict.fromkeys(part.task for part in suite.parts if isinstance(part.spec.task, Text))
    return tuple(found) if len(found) < len(suite.tasks) else ()


def sweeps_of(suite: Suite, tracking_uri: str) -> list[tuple[str, SweepRecord]]:
    """The sweeps of a suite that have begun, each with its task's name.

    Raises:
        UsageError: the store cannot be read.
    """
    found = []
    for part in suite.parts:
        try:
            found.append((part.task, read_sweep(tracking_uri, part.spec.key).current()))
        except UnknownRecord:
            continue
    return found


def build_scores(
    name: str,
    settings: dict[str, int],
    records: Iterable[tuple[str, SweepRecord]],
    *,
    apart: tuple[str, ...] = (),
) -> Scores:
    """The table of the sweeps of each task, one a setting; the mean leaves out the tasks `apart`."""
    reached: dict[str, dict[str, list[tuple[float, str]]]] = {}
    for task, record in records:
        for architecture, best in _best(record).items():
            reached.setdefault(architecture, {}).setdefault(task, []).append(best)
    table = {
        architecture: {
            task: Reached(fmean(recall for recall, _ in own), len(own), tuple(run for _, run in own))
            for task, own in row.items()
        }
        for architecture, row in reached.items()
    }

    def place(architecture: str) -> tuple[int, float, str]:
        row = table[architecture]
        counted = [score.recall for task, score in row.items() if task not in apart]
        return -len(row), -fmean(counted or [0.0]), architecture

    ordered = {architecture: table[architecture] for architecture in sorted(table, key=place)}
    return Scores(name, tuple(settings), settings, ordered, apart)


def _best(record: SweepRecord) -> dict[str, tuple[float, str]]:
    """Architecture -> test recall and run of its best configuration by validation recall, of those whose seeds have
    finished.
    """
    as_needed = record.spec.get("search", {}).get("seeds") == "as_needed"
    seeds = 1 if as_needed else len(record.spec.get("seeds", [0]))
    groups = by_configuration(record.with_status(Status.FINISHED)).values()
    candidates = [gather(trials) for trials in groups if len(trials) >= seeds]
    best: dict[str, tuple[float, float, str]] = {}
    for candidate in candidates:
        own = (candidate.metrics[_CHOSEN_BY], candidate.metrics[_REPORTED], candidate.run_ids[0])
        if own[0] > best.get(candidate.architecture, (-1.0, 0.0, ""))[0]:
            best[candidate.architecture] = own
    return {architecture: (recall, run) for architecture, (_, recall, run) in best.items()}


def _cell(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:.3f}"
