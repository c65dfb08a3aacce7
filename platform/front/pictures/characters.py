"""The front drawn in characters, for a terminal."""

import math

from rich.text import Text

from recallfront.platform.front.front import Front
from recallfront.platform.front.pictures.appearance import (
    Axis,
    axes_of,
    by_architecture,
    mark_of,
    point_of,
    short_number,
    staircase,
)

LEAST_WIDTH = 72  # columns; a narrower picture shows nothing that the table does not
MOST_WIDTH = 110
HEIGHT = 18  # lines of the picture proper
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MARGIN = 10  # columns for the figures of the vertical axis
_DOT = "·"


def front_in_characters(front: Front, width: int) -> Text | None:
    """The candidates as letters, one an architecture, in capitals on the front; None if there is no room for it.

    Colours are those of the other pictures; a console without colours (NO_COLOR) prints the letters alone.
    """
    if width < LEAST_WIDTH or not front.candidates:
        return None
    columns = min(width, MOST_WIDTH) - _MARGIN - 2
    across, up = axes_of(front)
    cells: dict[tuple[int, int], tuple[str, str]] = {}  # (line, column) -> letter, colour
    for place in _edge(front, across, up, columns):
        cells[place] = (_DOT, "dim")
    groups = by_architecture(front)
    letters = {name: _LETTERS[number % len(_LETTERS)] for number, name in enumerate(groups)}
    # members are drawn last: they hide what lies under them
    for on_front in (False, True):
        for name, candidates in groups.items():
            for candidate in candidates:
                if candidate.on_front == on_front:
                    x, y = point_of(front, candidate)
                    letter = letters[name] if on_front else letters[name].lower()
                    cells[_line(y, up), _column(x, across, columns)] = (letter, mark_of(name).colour)
    return _text(cells, across, up, columns, letters)


def _text(
    cells: dict[tuple[int, int], tuple[str, str]],
    across: Axis,
    up: Axis,
    columns: int,
    letters: dict[str, str],
) -> Text:
    text = Text(no_wrap=True, overflow="crop")
    text.append(f"{up.title}\n")
    for line in range(HEIGHT):
        figure = _figure(_value_at(1 - line / (HEIGHT - 1), up)) if line % 4 == 0 else ""
        text.append(f"{figure:>{_MARGIN - 1}} │")
        for column in range(columns):
            letter, style = cells.get((line, column), (" ", ""))
            text.append(letter, style=style)
        text.append("\n")
    text.append(" " * _MARGIN + "└" + "─" * columns + "\n")
    ticks = [" "] * (columns + _MARGIN)
    for part in range(5):
        at = _figure(_value_at(part / 4, across))
        start = _MARGIN + min(max(round(part / 4 * (columns - 1)) - len(at) // 2, 0), columns - len(at))
        ticks[start : start + len(at)] = at
    text.append("".join(ticks) + "\n")
    text.append(" " * _MARGIN + across.title + "\n")
    for name, letter in letters.items():
        text.append(f"  {letter} ", style=mark_of(name).colour)
        text.append(name)
    return text.append("   (small: off the front)\n")


def _edge(front: Front, across: Axis, up: Axis, columns: int) -> list[tuple[int, int]]:
    """The cells of the staircase."""
    xs, ys = staircase(front, across, up)
    corners = [(_line(y, up), _column(x, across, columns)) for x, y in zip(xs, ys, strict=True)]
    cells = []
    for (line, column), (next_line, next_column) in zip(corners, corners[1:], strict=False):
        lines = range(min(line, next_line), max(line, next_line) + 1)
        cells += [(own, column) for own in lines]
        cells += [(next_line, own) for own in range(min(column, next_column), max(column, next_column) + 1)]
    return cells


def _column(x: float, across: Axis, columns: int) -> int:
    return min(max(round(_share(x, across) * (columns - 1)), 0), columns - 1)


def _line(y: float, up: Axis) -> int:
    return min(max(round((1 - _share(y, up)) * (HEIGHT - 1)), 0), HEIGHT - 1)


def _share(value: float, axis: Axis) -> float:
    if axis.is_log:
        return math.log(max(value, axis.low) / axis.low) / math.log(axis.high / axis.low)
    return (value - axis.low) / (axis.high - axis.low)


def _value_at(share: float, axis: Axis) -> float:
    if axis.is_log:
        return float(axis.low * (axis.high / axis.low) ** share)
    return axis.low + share * (axis.high - axis.low)


def _figure(value: float) -> str:
    return short_number(float(f"{value:.3g}"))
