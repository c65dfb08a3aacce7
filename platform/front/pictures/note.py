"""The description of a sweep's MLflow run."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import accumulate
from typing import Final

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.front import Front
from recallfront.platform.front.next_steps import next_commands
from recallfront.platform.metrics import show, title_of_objective
from recallfront.platform.tracking.writer import MAX_TAG

_LONGEST: Final = 1000  # characters of a specification's description
_REST: Final = 50  # characters, and more than the sentence on what is left out has
# emphasis, code, links and what is struck through; an underscore within a word is text
_WITHIN_A_LINE: Final = re.compile(r"[\\`*\[\]~]|(?<![^\W_])_|_(?![^\W_])")
# headings, lists and rules
_AT_ITS_START: Final = re.compile(r"^([ \t]*\d*)([-+=#.)])(?=[-+=#]*(?:\s|$))", re.MULTILINE)


def sweep_note(run_id: str, front: Front, *, description: str = "", plugins: Iterable[str] = ()) -> str:
    """The description of a sweep's MLflow run, in Markdown: the way to its page, what it is, its front, what is next.

    It fits a tag: configurations that do not are counted.

    Args:
        description: the specification's.
        plugins: files of plug-ins that the next commands need.
    """
    top = [f"**[Open the front of this sweep](/recallfront/sweeps/{run_id})** (needs `recallfront ui`)", ""]
    if told := paragraph(description):
        top += [told, ""]
    if not front.members:
        return "\n".join([*top, "No finished trial."])
    heads = [title_of_objective(objective) for objective in front.objectives]
    top += [
        f"{len(front.members)} of {len(front.candidates)} configurations are on the front; hypervolume "
        f"{show('hypervolume', front.hypervolume)}.",
        "",
        "| configuration | " + " | ".join(heads) + " |",
        "| --- " * (len(heads) + 1) + "|",
    ]
    commands = [command for _, command in next_commands(front, front.sweep_key[:8], plugins=plugins)]
    where = "Next, with `--home` or `--tracking-uri` if this store is not the default:"
    end = ["", where, "", "```", *commands, "```"]
    rows = _fitting([_row(front, member) for member in front.members], MAX_TAG - len("\n".join([*top, *end])))
    return "\n".join([*top, *rows, *end])


def _row(front: Front, member: Candidate) -> str:
    name = plain(member.label) + (" (knee)" if member is front.knee else "")
    return f"| {' | '.join([name, *(member.describe(o.reading) for o in front.objectives)])} |"


def _fitting(rows: Sequence[str], room: int) -> list[str]:
    """As many rows, each on a line, as so many characters have room for, and how many are left."""
    ends = list(accumulate(len(row) + 1 for row in rows))
    if ends[-1] <= room:
        return list(rows)
    shown = sum(end + _REST <= room for end in ends)
    return [*rows[:shown], "", f"{len(rows) - shown} more are on its page."]


def paragraph(text: str) -> str:
    """A text as one paragraph of Markdown that shows it as it stands; a long one is cut."""
    told = " ".join(text.split())
    return plain(told if len(told) <= _LONGEST else f"{told[:_LONGEST]} ...")


def plain(text: str) -> str:
    """Text that Markdown and HTML take as it stands."""
    text = escape(text, quote=False).replace("|", "&#124;")
    return _AT_ITS_START.sub(r"\1\\\2", _WITHIN_A_LINE.sub(r"\\\g<0>", text))
