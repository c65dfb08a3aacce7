"""What a trial's process prints, warns and logs while it runs: its reports carry it to the sweep's log."""

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from recallfront.platform.errors import without_secrets

_MOST_LINES = 500  # between two reports: of more, the last
_MOST_CHARACTERS = 2000  # of a line


class Output:
    """Lines that wait to be reported."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)

    def take(self) -> list[str]:
        """The lines since the last call, without the secrets of this process's environment: the driver has others."""
        if not self._lines:
            return []
        taken = without_secrets("\n".join(self._lines)).split("\n")  # a key has several lines
        self._lines.clear()
        return taken

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear what is written to the standard streams, which get it as well."""
        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Ear(stream, self._lines) for stream in before)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


class _Ear:
    """A stream that keeps the lines which pass through it."""

    def __init__(self, stream: TextIO, lines: deque[str]) -> None:
        self._stream, self._lines, self._begun = stream, lines, ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        self._lines.extend(line[-_MOST_CHARACTERS:] for line in whole if line.strip())
        self._begun = self._begun[-_MOST_CHARACTERS:]
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
