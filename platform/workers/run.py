"""One trial in whichever way the number of its workers asks for.

What trains several workers, Ray Train, is imported with the first trial that has them.
"""

from collections.abc import Generator
from threading import Event

from recallfront.platform.results.reports import Report
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.watchdog import Watchdog
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps.trial import TrialConfig


def trial_reports(
    trial: TrialConfig, place: Workplace, told_to_leave: Event
) -> Generator[Report, None, None]:
    """The reports of a trial, run in this process or by Ray Train's workers; both save it where they are to leave."""
    if trial.resources.workers == 1:
        return Watchdog(trial, place).guard(run_trial(trial, place, told_to_leave))
    from recallfront.platform.workers.train_job import run_distributed_trial

    return run_distributed_trial(trial, place, told_to_leave)  # its workers are watched where they run
