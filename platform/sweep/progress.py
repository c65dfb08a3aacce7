"""Live progress of a sweep in the terminal and in a notebook; plain lines elsewhere.

IPython is imported in a notebook alone: elsewhere it need not be installed.
"""

import time
from html import escape

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from recallfront.platform.metrics import duration
from recallfront.platform.results.labels import trial_label, varying_in
from recallfront.platform.results.records import TrialRecord, ended, say_counts
from recallfront.platform.sweep.background import Companion
from recallfront.platform.sweep.conductor import Conductor

_LIVE_SECONDS = 0.5
_LINE_SECONDS = 10.0


class Progress(Companion):
    """Shows, while it is entered, trials done, running and failed, the best so far and the time left."""

    def __init__(self, conductor: Conductor, console: Console, *, total: int | None, concurrent: int) -> None:
        self._conductor, self._console = conductor, console
        self._total, self._concurrent = total, concurrent
        self._varying = varying_in(conductor.spec)
        super().__init__("progress")

    def _run(self) -> None:
        if self._console.is_jupyter:
            self._show_in_notebook()
            return
        if not self._console.is_terminal:
            while not self._done.wait(_LINE_SECONDS):
                self._console.print(self.line(), highlight=False, markup=False, soft_wrap=True)
            return
        with Live(self.picture(), console=self._console, refresh_per_second=4, transient=True) as live:
            while not self._done.wait(_LIVE_SECONDS):
                live.update(self.picture())

    def _show_in_notebook(self) -> None:
        from IPython.display import HTML, display

        shown = display(HTML(self.html()), display_id=True)
        while not self._done.wait(_LIVE_SECONDS):
            shown.update(HTML(self.html()))
        shown.update(HTML(self.html()))

    def html(self) -> str:
        """The state as a bar and one line of figures."""
        done = f' value="{ended(self._conductor.counts())}" max="{self._total}"' if self._total else ""
        return f"<progress{done}></progress> {escape(self.line())}"

    def line(self) -> str:
        """The state in one line."""
        parts = [
            f"{duration(time.time() - self._conductor.started)}",
            say_counts(self._conductor.counts(), self._total),
        ]
        best = self._conductor.best()
        if best is not None:
            parts.append(f"best recall {best.metrics['validation_recall']:.3f} ({self._label(best)})")
        left = self._seconds_left()
        if left is not None:
            parts.append(f"about {duration(left)} left")
        if budget := self._conductor.budget_left():
            parts.append(budget)
        if self._conductor.waiting:
            parts.append(self._conductor.waiting)
        return "  |  ".join(parts)

    def picture(self) -> RenderableType:
        """The state as a small live picture: a bar, one line of figures, one line a running trial."""
        running = Table.grid(padding=(0, 2))
        for trial in self._conductor.running():
            recall = trial.metrics.get("validation_recall")
            state = "measured, training" if trial.metrics else ""
            running.add_row(
                Text("  running", style="cyan"),
                Text(self._label(trial)),
                state if recall is None else f"recall {recall:.3f}",
            )
        bar = ProgressBar(
            total=self._total, completed=ended(self._conductor.counts()), width=40, pulse=self._total is None
        )
        return Group(bar, Text(self.line()), running)

    def _label(self, trial: TrialRecord) -> str:
        return trial_label(trial, self._varying)

    def _seconds_left(self) -> float | None:
        mean = self._conductor.mean_seconds()
        if self._total is None or mean is None:
            return None
        counts = self._conductor.counts()
        rest = self._total - ended(counts) - counts["running"] / 2
        return max(0.0, min(rest * mean / self._concurrent, self._conductor.budget_seconds_left()))
