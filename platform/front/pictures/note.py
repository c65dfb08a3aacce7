"""The description of a sweep's MLflow run."""

from recallfront.platform.front.front import Front
from recallfront.platform.metrics import show, title_of_objective


def sweep_note(run_id: str, front: Front) -> str:
    """The description of a sweep's MLflow run, in Markdown: the way to its page, and the front in a few lines."""
    lines = [f"**[Open the front of this sweep](/recallfront/sweeps/{run_id})** (needs `recallfront ui`)", ""]
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
    return "\n".join(lines)


def plain(text: str) -> str:
    """Text that Markdown and HTML take as it stands."""
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"} | {mark: "\\" + mark for mark in "\\`*[]"}
    return "".join(marks.get(letter, letter) for letter in text)
