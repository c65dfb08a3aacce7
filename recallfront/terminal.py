"""What the command line prints of a sweep when it has ended.

What a function needs is imported in it, so that other commands start fast.
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

INTERRUPTED = 130  # exit code of a command that Ctrl-C or another process has ended

if TYPE_CHECKING:
    from rich.console import Console

    from recallfront.platform.front.scores import Scores
    from recallfront.platform.sweep.run import SweepResult


def show_result(result: "SweepResult", console: "Console", *, short: bool = False) -> None:
    """Print how a sweep ended: counts, failures and verdicts, and, unless `short`, the front, its files and the next
    commands.
    """
    from recallfront.platform.front.tables import FrontTable, claims_table
    from recallfront.platform.metrics import duration
    from recallfront.platform.results.labels import trial_label, varying_knobs
    from recallfront.platform.results.records import count, say_counts

    print(
        f"{result.ran} trials run, {result.answered} answered from the ledger, in {duration(result.seconds)}: "
        f"{say_counts(count(result.record))}"
    )
    for note in result.notes:
        print(note)
    varying = varying_knobs(result.record.trials)
    for trial in result.record.trials:
        if trial.status.is_failure:
            print(f"  {trial.status.value}: {trial_label(trial, varying)}: {trial.failure}")
    if result.undelivered:
        print(f"{result.undelivered} events wait for the tracking server: run the same command again")
    if result.refused:
        print(f"{result.refused} events were refused by the tracking server; they are kept in {result.spool}")
    if result.front is None:
        return
    if not short:
        console.print(FrontTable(result.front))
    if result.judgements:
        console.print(claims_table(result.judgements))
    if short:
        return
    for kind, path in result.front_files.items():
        print(f"{kind}: {path}")
    _show_next(result)


def show_scores(found: "Scores", console: "Console") -> None:
    """Print the scores of a suite, and the verdicts on its claims."""
    from recallfront.platform.front.tables import claims_table

    console.print(found.shown())
    if found.judgements:
        console.print(claims_table(found.judgements))


def _show_next(result: "SweepResult") -> None:
    """The next commands, as they can be pasted here."""
    from recallfront.platform.front.next_steps import next_commands
    from recallfront.platform.plugins import files_in_use

    assert result.front is not None
    program, options = _program(), _options(result)
    print("next:")
    for _, command in next_commands(
        result.front,
        result.record.sweep_key[:8],
        program=program,
        options=options,
        plugins=files_in_use(),
    ):
        print(f"  {command}")
    if not result.tracking_uri.startswith("http"):  # a server shows its own pages
        print(f"  {program} ui{options}")


def table_width() -> int | None:
    """Columns for a table: those of the terminal; in a pipe or a log, enough for all of them."""
    return None if sys.stdout.isatty() else 120


def _program() -> str:
    """The name of this program: how it was called, if its plain name is not on the path."""
    if shutil.which("recallfront"):
        return "recallfront"
    called = Path(sys.argv[0])
    return "python -m recallfront" if called.name == "__main__.py" else shlex.quote(str(called.absolute()))


def _options(result: "SweepResult") -> str:
    from recallfront.platform.home import home_folder
    from recallfront.platform.home.address import home_name

    store = f"sqlite:///{result.home / 'mlflow.db'}"
    home = "" if home_folder().resolve() == result.home else f" --home {shlex.quote(home_name(result.home))}"
    return home + (
        "" if result.tracking_uri == store else f" --tracking-uri {shlex.quote(result.tracking_uri)}"
    )
