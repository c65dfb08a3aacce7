"""The front in characters."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from recallfront.platform.front.front import build_front
from recallfront.platform.front.pictures.characters import HEIGHT, LEAST_WIDTH, front_in_characters
from recallfront.platform.results.records import SweepRecord


def printed(record: SweepRecord, width: int, **kind: object) -> str:
    text = front_in_characters(build_front(record), width)
    assert text is not None
    console = Console(width=width, file=io.StringIO(), force_terminal=True, **kind)  # type: ignore[arg-type]
    console.print(text)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [LEAST_WIDTH, 80, 200])
def test_every_member_is_a_capital_and_the_best_recall_is_on_top(record: SweepRecord, width: int) -> None:
    lines = printed(record, width, color_system=None).splitlines()
    assert max(map(len, lines)) <= width
    picture = [line.partition("│")[2] for line in lines if "│" in line]
    assert len(picture) == HEIGHT
    drawn = {letter for line in picture for letter in line} - {" ", "·"}
    # attention, window, based, griffin, hawk, grouped; window is off the front, and one of based
    assert {"A", "C", "D", "E", "F", "b", "c"} <= drawn and "B" not in drawn
    columns = {letter: min(line.find(letter) for line in picture if letter in line) for letter in "AE"}
    rows = {letter: next(n for n, line in enumerate(picture) if letter in line) for letter in "AE"}
    assert rows["A"] < rows["E"] and columns["A"] < columns["E"]
    assert "A attention" in "".join(lines) and "decoding throughput (tokens/s)" in "".join(lines)


def test_no_color_leaves_letters_alone(record: SweepRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[38;" in printed(record, 80, color_system="truecolor")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[38;" not in printed(record, 80, color_system="truecolor")


def test_there_is_none_without_room_or_trials(
    record: SweepRecord, make_record: Callable[..., SweepRecord]
) -> None:
    assert front_in_characters(build_front(record), LEAST_WIDTH - 1) is None
    assert front_in_characters(build_front(make_record(0)), 100) is None
