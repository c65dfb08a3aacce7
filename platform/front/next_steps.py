"""What to do next with a sweep or one of its configurations, as commands: terminal, pages and reports show the same."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.front import Front


def next_commands(
    front: Front,
    sweep: str,
    *,
    program: str = "recallfront",
    options: str = "",
    plugins: Iterable[Path | str] = (),
) -> list[tuple[str, str]]:
    """(what it does, command) for a sweep that `sweep` names; `options` say where its store is.

    Files of plug-ins are for those that may need what they define: a rerun and the report.
    """
    commands = [("The front as a table", f"front {sweep}")]
    if front.knee is not None:
        commands.append(("Pick the knee, register it, write its weights", f"pick {sweep} --knee --out model"))
    if front.members:
        first, second = front.objectives[:2]
        commands.append(
            ("Pick the best in one objective", f"pick {sweep} --{first.direction} {first.metric}")
        )
        if enough := _enough(front):
            best = f"--where '{enough}' --{second.direction} {second.metric}"
            commands[-1] = ("Pick the best with enough recall", f"pick {sweep} {best}")
        again = front.knee or front.members[-1]
        if again.run_ids[0]:  # a run has no id before the server has made it
            what = "the knee" if again is front.knee else "one of them"
            commands.append((f"Run {what} again from its lineage", rerun_command(again.run_ids[0], plugins)))
        commands.append(("Write its report", f"report {sweep} --out report{plugin_options(plugins)}"))
    return [(what, f"{program} {command}{options}") for what, command in commands]


def configuration_commands(
    candidate: Candidate,
    sweep: str,
    specification: str,
    *,
    only: str,
    is_finished: bool,
    options: str,
    plugins: Iterable[Path | str],
) -> list[tuple[str, str]]:
    """(what it does, command) for one configuration of a sweep, which a study or a file `specification` describes.

    `only` is a condition that holds for it alone; empty: it cannot be picked.
    """
    commands = []
    if only:
        anywhere = "" if candidate.on_front else " --any"
        commands.append(("Pick it", f"pick {sweep} --where {shlex.quote(only)}{anywhere}"))
    if is_finished and candidate.run_ids[0]:
        commands.append(("Run its best seed again", rerun_command(candidate.run_ids[0], plugins)))
    commands.append(("Continue the sweep", run_command(specification, plugins)))
    return [(what, f"recallfront {command}{options}") for what, command in commands]


def run_command(specification: str, plugins: Iterable[Path | str]) -> str:
    """`run` with the plug-ins that the sweep needs."""
    return f"run {shlex.quote(specification)}{plugin_options(plugins)}"


def rerun_command(run_id: str, plugins: Iterable[Path | str]) -> str:
    """`rerun` with the plug-ins that the trial needs."""
    return f"rerun {run_id[:8]}{plugin_options(plugins)}"


def plugin_options(files: Iterable[Path | str]) -> str:
    """The options that give a command these plug-ins, each after a space."""
    return "".join(f" --plugin {shlex.quote(str(path))}" for path in files)


def _enough(front: Front) -> str:
    """A condition that the best recall of the front meets; empty if that is below 0.1, or no objective."""
    first = front.objectives[0]
    if first.reading != "validation_recall":
        return ""
    best = max(member.metrics[first.reading] for member in front.members)
    tenths = max((n for n in range(11) if n / 10 <= best), default=0)
    return f"{first.metric} >= {tenths / 10:g}" if tenths else ""
