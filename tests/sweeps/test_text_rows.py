"""Rows of text as models read them, and what is asked of them."""

import json
from pathlib import Path

import pytest
import torch

from recallfront.sweeps.data import load, prepare, questions
from recallfront.sweeps.tasks.base import Counts
from recallfront.sweeps.windows import EMPTY, evaluation_windows
from tests.sweeps.texts import data_of, documents, task


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents()))
    return folder


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_what_fills_a_row_up_starts_no_document(corpus: Path, tmp_path: Path, tokenizer: str) -> None:
    """The end of a document is the last byte's token, or the first of a trained tokenizer."""
    sliding = {"length": 32, "stride": 8, "tokens": 90}
    own = task(corpus, tokenizer=tokenizer, vocab_size=300, validation=[sliding], test=[sliding])
    data = data_of(own, tmp_path)
    inputs = data.splits["validation"][0].inputs[:]
    source, _ = evaluation_windows(90, window=32, stride=8)
    is_read = torch.from_numpy(source != EMPTY)
    positions = data.positions(inputs)
    assert positions is not None and not is_read[-1].all()
    ends = (inputs == data.end) & is_read
    assert int((positions == 0).sum()) == len(inputs) + int(ends[:, :-1].sum())
    assert int(inputs.min()) >= 0 and int(inputs.max()) < 300


def test_hits_are_asked_for_in_blocks(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sliding evaluation reads every token many times, too often to hold all of it."""
    own = task(corpus, ar_threshold=150, test=[{"length": 32, "stride": 4, "tokens": 100}])
    path, digest = prepare(own, tmp_path)
    data = load(path, digest)
    expected = int(data.parts["test"]["32_stride_4"](slice(None))["hits/32_stride_4"].sum())
    monkeypatch.setattr("recallfront.sweeps.text.windows._TOGETHER", 10 * 32)
    masks = list(own.asked_of(data, "test"))
    assert [len(mask) for mask in masks] == [10, 10, 5]
    assert questions(own, path, digest, "test") == sum(int(mask.sum()) for mask in masks) == expected > 0


def test_each_stride_of_a_length_has_figures_of_its_own() -> None:
    segments = {"32": Counts(6, 20.0, 10, 32)}
    segments |= {f"64_stride_{stride}": Counts(stride, 10.0, 16, 64) for stride in (4, 8)}
    segments |= {"128_stride_8": Counts(3, 10.0, 16, 128)}
    slices = {f"{part}/{name}": counts for name, counts in segments.items() for part in ("hits", "other")}
    rows = [{"length": 64, "stride": stride} for stride in (4, 8)]
    own = task(Path("."), test=[{}, *rows, {"length": 128, "stride": 8}])
    found = own.figures(segments, slices)
    sliding = {name: value for name, value in found.items() if name.startswith("recall_sliding")}
    assert sliding == {
        "recall_sliding_at_64_stride_4": 4 / 16,
        "recall_sliding_at_64_stride_8": 8 / 16,
        "recall_sliding_at_128": 3 / 16,
    }
    assert {f"perplexity{name.removeprefix('recall')}" for name in sliding} <= found.keys()
