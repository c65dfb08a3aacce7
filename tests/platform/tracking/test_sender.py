"""In which order the writer sends what waits."""

from recallfront.platform.tracking.sender import DIGESTS, _next_of
from recallfront.platform.tracking.spool import Event


def test_nothing_comes_between_a_text_and_its_digest() -> None:
    """In between a text that has changed looks damaged."""
    text, other = Event(1, "sweep", "text", 1, {}), Event(2, "sweep", "text", 1, {})
    files, end = Event(3, "sweep", "artifact", 1, {}), Event(4, "sweep", "close", 1, {})
    figures = Event(5, "sweep", "metrics", 2, [])
    digests = [Event(text.id, "sweep", DIGESTS, 1, []), Event(other.id, "sweep", DIGESTS, 1, [])]
    assert _next_of([text, other, files, figures]) == [text], "nothing for a batch before the files"
    assert _next_of([digests[0], other, files]) == [other], "one batch for both"
    assert _next_of([*digests, files]) == digests, "not after the files"
    assert _next_of([text, files, figures, end]) == [files], "files may take long"
    assert _next_of([digests[0], figures, end]) == [digests[0], figures]
