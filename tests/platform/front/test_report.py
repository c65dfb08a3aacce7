"""The report of a sweep: what its blocks become in Markdown and HTML, and its pictures."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from recallfront.platform.front.claims import ClaimVerdict, Judgement
from recallfront.platform.front.front import build_front
from recallfront.platform.front.pictures.curves import (
    Course,
    best_of_each,
    claims_picture,
    curves_picture,
    kinds_of,
    kinds_picture,
)
from recallfront.platform.front.pictures.document import (
    Cells,
    Commands,
    DocumentBlock,
    Heading,
    Paragraph,
    Picture,
    as_html,
    as_markdown,
)
from recallfront.platform.results.records import SweepRecord
from recallfront.sweeps.claims import Claim
from tests.platform.front.claimed import ROWS, sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCKS: Sequence[DocumentBlock] = (
    Heading("A <b>study", 1),
    Paragraph("Is a * b | c?"),
    Cells(("name", "value"), [["a|b", "<script>alert(1)</script>"]]),
    Picture("front", "<svg xmlns='http://www.w3.org/2000/svg'/>", "The front"),
    Commands(["recallfront run 'a <b>'"]),
)


def test_a_document_in_markdown() -> None:
    assert as_markdown(BLOCKS).split("\n\n") == [
        "# A &lt;b&gt;study",
        r"Is a \* b &#124; c?",
        "| name | value |\n| --- | --- |\n| a&#124;b | &lt;script&gt;alert(1)&lt;/script&gt; |",
        "![The front](front.svg)",
        "    recallfront run 'a <b>'\n",
    ]


def test_a_document_in_html_holds_its_pictures_and_runs_nothing() -> None:
    html = as_html(BLOCKS)
    assert "<script" not in html and "<title>A &lt;b&gt;study</title>" in html
    (image,) = re.findall(r"src='data:image/svg\+xml;base64,([^']+)'", html)
    assert base64.b64decode(image).decode() == BLOCKS[3].svg  # type: ignore[union-attr]
    assert not re.search(r"(?:src|href)=['\"](?!data:)", html), "it needs nothing else"


def texts(figure: "Figure") -> list[str]:
    """The texts of a figure's SVG; reading it checks that it is well-formed."""
    from matplotlib import rc_context

    out = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(out, format="svg")
    tree = ElementTree.fromstring(out.getvalue())
    return ["".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_the_curves_are_of_the_best_of_each_architecture(record: SweepRecord) -> None:
    best = best_of_each(build_front(record))
    assert [c.architecture for c in best].count("based") == 1
    recalls = {c.architecture: c.metrics["validation_recall"] for c in best}
    assert recalls["based"] == pytest.approx(0.921, abs=0.02)
    told = texts(curves_picture([Course(c, [[(100, 0.2), (200, 0.4)], [(100, 0.3)]]) for c in best]))
    assert {c.architecture for c in best} <= set(told) and "training step" in told


def test_kinds_are_lengths_or_else_what_the_names_do_not_share(record: SweepRecord) -> None:
    (first, *_) = build_front(record).candidates

    def kinds(*names: str) -> object:
        own = dict.fromkeys(names, 0.5)
        found = kinds_of([first.__class__(**vars(first) | {"metrics": first.metrics | own})])
        return found and (found.title, list(found.names.values()))

    assert kinds() is None and kinds("recall_at_64") is None
    lengths = kinds("recall_at_64", "recall_at_512", "recall_length_64", "recall_length_512")
    assert lengths == ("tokens of a row", ["64", "512"])
    segments = kinds("recall_length_48_pairs_8_updates_0", "recall_length_48_pairs_8_updates_8")
    assert segments == ("length 48 pairs 8 updates", ["0", "8"])
    one_length = ("recall_at_48", "recall_length_48_pairs_8_updates_0", "recall_length_48_pairs_8_updates_8")
    assert kinds(*one_length) == segments


def test_the_picture_of_kinds(record: SweepRecord) -> None:
    (first, *_) = build_front(record).candidates
    own = {"recall_at_64": 0.9, "recall_at_512": 0.4}
    candidate = first.__class__(**vars(first) | {"metrics": first.metrics | own})
    kinds = kinds_of([candidate])
    assert kinds is not None and {"64", "512"} <= set(texts(kinds_picture([candidate], kinds)))


def test_the_picture_of_claims_tells_each_number() -> None:
    (raw,) = sweep({"based": "best recall"}, "based >= 0.5", ROWS).spec["claims"]
    claim = Claim.model_validate(raw)
    judged = Judgement(claim, ClaimVerdict.SUPPORTED, 0.75, (0.7, 0.8))
    untested = Judgement(claim, ClaimVerdict.NOT_TESTED, reason="nothing ran")
    told = texts(claims_picture([judged, untested]))
    assert "0.75 [0.7, 0.8]  asked >= 0.5  supported" in told and told.count("asked") == 1


def test_configurations_of_one_architecture_are_told_apart_by_colour(record: SweepRecord) -> None:
    from matplotlib.colors import to_hex

    (first, *_) = build_front(record).candidates
    own = {"recall_at_64": 0.9, "recall_at_512": 0.4}
    same = [first.__class__(**vars(first) | {"metrics": first.metrics | own}) for _ in range(5)]
    kinds = kinds_of(same)
    assert kinds is not None
    lines = [bars.lines[0] for bars in kinds_picture(same, kinds).axes[0].containers]  # type: ignore[attr-defined]
    assert len({to_hex(line.get_color()) for line in lines}) == len(same)
