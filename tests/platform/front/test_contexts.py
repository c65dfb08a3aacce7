"""What a report tells of throughput that was measured at several contexts."""

import io
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.front import build_front
from recallfront.platform.front.pictures.contexts import at_contexts, contexts_picture, contexts_table
from recallfront.platform.front.pictures.png import picture
from recallfront.platform.results.records import SweepRecord

DECODE = "decode_tokens_per_second"


def measured(candidate: Candidate, **metrics: float) -> Candidate:
    """The configuration as if it had been measured at contexts, too."""
    spreads = {name: 1.0 for name in metrics if name.startswith(DECODE)}
    return replace(candidate, metrics=candidate.metrics | metrics, spreads=candidate.spreads | spreads)


def test_throughput_over_contexts_is_a_line_and_a_table(record: SweepRecord) -> None:
    first, second, *_ = build_front(record).candidates
    assert contexts_picture([first, second], DECODE) is None, "it was measured at no context"
    one = measured(first, **{f"{DECODE}_at_512": 50.0})
    assert contexts_picture([one, second], DECODE) is None, "one context makes no line"
    batches = {"max_batch_size_at_512": 8.0, "max_batch_size_at_4096": 1.0}
    several = measured(first, **{f"{DECODE}_at_4096": 20.0, f"{DECODE}_at_512": 50.0}, **batches)
    assert at_contexts(several, DECODE) == [(512, 50.0, 1.0), (4096, 20.0, 1.0)]
    drawn = contexts_picture([several, second], DECODE)
    assert drawn is not None
    out = io.BytesIO()
    drawn.savefig(out, format="svg")
    ElementTree.fromstring(out.getvalue())
    assert [text.get_text() for text in drawn.axes[0].get_xticklabels()] == ["512", "4,096"]
    assert drawn.axes[0].get_legend_handles_labels()[1] == [first.architecture]
    table = contexts_table([several])
    assert table.head == ("configuration", "context", "decode tokens/s", "largest batch")
    assert table.rows == [
        [first.label, "512", "50 ±1", "8"],
        [first.label, "4,096", "20 ±1", "1"],
    ]


def test_the_table_tells_from_which_context_on_each_is_faster_than_attention(record: SweepRecord) -> None:
    first = build_front(record).candidates[0]
    contexts = (256, 1024, 4096)

    def decoding(architecture: str, *rates: float) -> Candidate:
        metrics = {f"{DECODE}_at_{context}": rate for context, rate in zip(contexts, rates, strict=True)}
        return replace(first, architecture=architecture, metrics=metrics, spreads={})

    heads, queries = decoding("attention", 100, 50, 10), decoding("attention", 90, 60, 40)
    # hawk is faster everywhere, based than one attention at 1,024 and than both at 4,096, gla not for good
    others = {"hawk": (120, 110, 100), "based": (50, 55, 60), "gla": (110, 50, 30), "window": (20, 70, 80)}
    table = contexts_table([heads, queries, *(decoding(name, *rates) for name, rates in others.items())])
    assert table.head[-1] == "decode overtakes attention at"
    told = [row[-1] for row in table.rows]
    assert told[::3] == ["", "", "≤ 256", "4,096", "–", "1,024"], "in each one's first line"
    assert set(told[1::3]) == set(told[2::3]) == {""}
    alone = contexts_table([heads, queries])
    assert alone.head == ("configuration", "context", "decode tokens/s"), "there is nothing to compare"
    assert contexts_table([decoding("hawk", 3, 2, 1)]).head == alone.head


def test_a_long_caption_stays_within_the_picture(record: SweepRecord) -> None:
    drawn = picture(build_front(replace(record, name="a-sweep-with-a-long-name-" * 4)))
    drawn.draw_without_rendering()
    caption = next(text for text in drawn.texts if "a-sweep-with" in text.get_text())
    box = caption.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawn.bbox.width and box.y0 >= 0
