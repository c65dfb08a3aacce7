"""The description of a sweep's MLflow run."""

from collections.abc import Iterable

from recallfront.platform.front.front import Front
from recallfront.platform.front.next_steps import next_commands
from recallfront.platform.metrics import show, title_of_objective


def sweep_note(run_id: str, front: Front, *, description: str = "", plugins: Iterable[str] = ()) -> str:
    """The description of a sweep's MLflow run, in Markdown: the way to its page, what it is, its front, what is next.

    Args:
        description: the specification's.
        plugins: files of plug-ins that the next commands need.
    """
    lines = [f"**[Open the front of this sweep](/recallfront/sweeps/{run_id})** (needs `recallfront ui`)", ""]
    if told := paragraph(description):
        lines += [told, ""]
    if not front.members:
        return "\n".join([*lines, "No finished trial."])
    columns = [objective.reading for objective in front.objectives]
    heads = [title_of_objective(objective) for objective in front.objectives]
    lines += [
        f"{len(front.members)} of {len(front.candidates)} configurations are on the front; hypervolume "
        f"{show('hypervolume', front.hypervolume)}.",
        "",
        "| configuration | " + " | ".join(heads) + " |",
        "| --- " * (len(heads) + 1) + "|",
    ]
    for member in front.members:
        name = plain(member.label) + (" (knee)" if member is front.knee else "")
        lines.append(f"| {name} | " + " | ".join(map(member.describe, columns)) + " |")
    commands = [command for _, command in next_commands(front, front.sweep_key[:12], plugins=plugins)]
    where = "Next, with `--home` or `--tracking-uri` where this store is not the default:"
    return "\n".join([*lines, "", where, "", "```", *commands, "```"])


def paragraph(text: str) -> str:
    """A text as one paragraph of Markdown that shows it as it stands."""
    return plain(" ".join(text.split()))


def plain(text: str) -> str:
    """Text that Markdown and HTML take as it stands."""
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"} | {mark: "\\" + mark for mark in "\\`*[]"}
    return "".join(marks.get(letter, letter) for letter in text)
