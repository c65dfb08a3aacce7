"""Rows of text as models read them, and what is asked of them."""

import json
from pathlib import Path

import pytest
import torch

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
