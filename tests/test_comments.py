"""Comments at the end of a line leave a statement as it would be without them."""

import re
import subprocess
import sys
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from tests.test_layout import AREAS, ROOT, sources

# A string, in which # begins no comment, or a comment that no tool reads; `tokenize` takes twenty times as long.
_STRING_OR_COMMENT = re.compile(
    r"""(?P<quotes>"{3}|'{3})(?:\\.|[^\\])*?(?P=quotes)|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
    r"|(?P<comment>[ \t]*#(?! (?:noqa|type:|fmt:|pragma))[^\n]*)",
    re.DOTALL,
)


def without_trailing_comments(source: str) -> str:
    """The source without comments beside code, but for those that a tool reads."""

    def kept(found: re.Match[str]) -> str:
        begins_line = found.start() == 0 or source[found.start() - 1] == "\n"
        return found[0] if found["comment"] is None or begins_line else ""

    return _STRING_OR_COMMENT.sub(kept, source)


def broken(files: dict[str, str], scratch: Path) -> list[str]:
    """Statements that the formatter would put on fewer lines if no comment stood at the end of one: file and code."""
    for kind, change in (("with", str), ("without", without_trailing_comments)):
        for name, source in files.items():
            place = scratch / kind / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(change(source))
    # a comma after the last element, which a comment has made necessary, is no reason for lines of their own here
    settings = ["--config", str(ROOT / "pyproject.toml"), "--config", "format.skip-magic-trailing-comma=true"]
    command = [sys.executable, "-m", "ruff", "format", "--quiet", "--no-cache", *settings, str(scratch)]
    subprocess.run(command, check=True)
    found = []
    for name in files:
        is_now = without_trailing_comments((scratch / "with" / name).read_text()).splitlines()
        could_be = (scratch / "without" / name).read_text().splitlines()
        if is_now == could_be:
            continue
        changes = SequenceMatcher(None, is_now, could_be, autojunk=False).get_opcodes()
        found += [
            f"{name}: {' '.join(could_be[first:last]).strip()}"
            for kind, start, end, first, last in changes
            if kind != "equal" and end - start > last - first
        ]
    return found


def test_comments_that_would_break_a_statement_have_a_line_of_their_own(tmp_path: Path) -> None:
    files = {
        str(file.relative_to(ROOT)): file.read_text()
        for area in (*AREAS, "recallfront", "tests")
        for file in sources(area)
    }
    assert not broken(files, tmp_path)


@pytest.mark.parametrize(
    ("source", "is_broken"),
    [
        (f"A_LONGER_NAME = 1  # {'why ' * 23}\n", True),
        ("x = [  # why\n    1,\n    2,\n]\n", True),
        ("# why\nx = [1, 2]  # short, and '# this' is no comment\n", False),
        (f"x = [  # why\n    {', '.join(['12345'] * 20)},\n]\n", False),
    ],
)
def test_what_counts_as_broken(source: str, is_broken: bool, tmp_path: Path) -> None:
    assert bool(broken({"a.py": source}, tmp_path)) is is_broken
