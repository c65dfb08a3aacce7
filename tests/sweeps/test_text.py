"""Text as a task: splits by document, rows that tile it, AR hits, tokenizers, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recallfront.sweeps import SpecError
from recallfront.sweeps.data import load, prepare, questions
from recallfront.sweeps.tasks.base import IGNORED, SPLITS, Counts
from recallfront.sweeps.text.corpus import store
from recallfront.sweeps.text.source import Piece, TextSource
from recallfront.sweeps.text.tokenizer import (
    find_tokenizer,
    kept_tokenizer,
    train_tokenizer,
)
from tests.sweeps.texts import END, WORDS, data_of, documents, task, tokens_of


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same documents as JSON lines, Parquet, a line each, and a file each."""
    folder, texts = tmp_path_factory.mktemp("corpus"), documents()
    (folder / "rows.jsonl").write_text("".join(json.dumps({"n": 1, "text": text}) + "\n" for text in texts))
    (folder / "lines.txt").write_text("\n".join(texts) + "\n")
    (folder / "paragraphs.txt").write_text("\n\n".join(text.replace(" a ", "\na ") for text in texts))
    (folder / "single").mkdir()
    for number, text in enumerate(texts):
        (folder / "single" / f"{number:02}.txt").write_text(text)
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"text": texts}), folder / "rows.parquet")
    return folder


@pytest.mark.parametrize(
    "source",
    [
        {"files": "rows.parquet"},
        {"files": "lines.txt", "documents": "line"},
        {"files": ["single/0*.txt", "single/[1-9]*.txt"]},
        {"dataset": "."},
    ],
)
def test_every_source_gives_the_same_rows(corpus: Path, tmp_path: Path, source: dict[str, Any]) -> None:
    if "files" in source:
        names = [source["files"]] if isinstance(source["files"], str) else source["files"]
        source = source | {"files": [str(corpus / name) for name in names]}
    else:
        folder = tmp_path / "dataset"
        folder.mkdir()
        (folder / "train.jsonl").write_bytes((corpus / "rows.jsonl").read_bytes())
        source = {"dataset": str(folder), "streaming": True}
    expected = prepare(task(corpus), tmp_path / "a")[1]
    assert prepare(task(corpus, source=source), tmp_path / "b")[1] == expected


def test_paragraphs_are_documents(corpus: Path) -> None:
    source = TextSource(files=str(corpus / "paragraphs.txt"), documents="paragraph")
    found = list(source.pieces())
    assert len(found) == 60 and all(piece.ends for piece in found) and "\na " in found[0].text


def test_a_tokenizer_is_trained_on_no_more_than_it_needs(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recallfront.sweeps.text.corpus._TRAINED_ON", 5000)
    monkeypatch.setattr("recallfront.sweeps.text.corpus._TOGETHER", 1000)
    (tmp_path / "unread.txt").write_bytes(b"\xff\n")
    lines = {"files": [str(corpus / "lines.txt"), str(tmp_path / "unread.txt")], "documents": "line"}
    rows = {"length": 8, "train": {"tokens": 50}, "validation": [{"tokens": 50}], "test": [{"tokens": 50}]}
    own = task(corpus, source=lines, tokenizer="bpe", vocab_size=300, **rows)
    assert len(tokens_of(data_of(own, tmp_path / "home"), "test")) > 0


def test_long_documents_come_in_pieces(tmp_path: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000)) + "x" * 70_000
    (tmp_path / "long.txt").write_text(text)
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": text}))
    for file in ("long.txt", "long.jsonl"):
        found = list(TextSource(files=str(tmp_path / file)).pieces())
        assert "".join(piece.text for piece in found) == text
        assert [piece.ends for piece in found] == [False] * (len(found) - 1) + [True] and len(found) > 4
        assert found[0].text.endswith("\n")


def test_documents_are_held_out_whole_whatever_their_order(corpus: Path, tmp_path: Path) -> None:
    def held_out(texts: list[str]) -> set[bytes]:
        (tmp_path / "in.txt").write_text("\n".join(texts))
        wanted = task(
            corpus, source={"files": str(tmp_path / "in.txt"), "documents": "line"}, test=[{"tokens": 10**6}]
        )
        tokens = tokens_of(data_of(wanted, tmp_path), "test")
        assert tokens[-1] == END
        return set(b"".join(bytes([t]) if t < END else b"\xff" for t in tokens).split(b"\xff")) - {b""}

    texts = documents()
    first = held_out(texts)
    assert first == held_out(texts[::-1]) and 4 < len(first) < 25
    assert first <= {text.encode() for text in texts}


def test_rows_tile_the_text_and_labels_are_the_next_token(corpus: Path, tmp_path: Path) -> None:
    data = data_of(task(corpus), tmp_path)
    training = data.splits["train"][0]
    x, y = training.inputs[:], training.labels[:]
    assert x.shape[1] == 32 and x[0, 0] == END and torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(x.flatten()[1:], y.flatten()[:-1]), "one row after the other"
    some = torch.tensor([5, 2])
    assert torch.equal(training.inputs[some], x[some]) and torch.equal(training.labels[3:4], y[3:4])
    one, sliding = data.splits["validation"]
    assert tokens_of(data, "validation") == sliding.labels[:][sliding.labels[:] != IGNORED].tolist()
    assert len(tokens_of(data, "validation")) == 300, "each is scored once"
    assert (sliding.labels[:][3] != IGNORED).sum() == 16 and sliding.inputs[:].shape == (19, 64)
    assert one.inputs[:].shape == (10, 32)


def test_positions_restart_with_every_document(corpus: Path, tmp_path: Path) -> None:
    data = data_of(task(corpus), tmp_path)
    rows = torch.tensor([[7, 8, END, 1, 2, END, END, 3]])
    assert data.positions(rows) is not None
    assert torch.equal(data.positions(rows), torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0]]))  # type: ignore[arg-type]
    assert data_of(task(corpus, restart_positions=False), tmp_path).positions(rows) is None


@pytest.mark.parametrize("restarts", [True, False])
def test_ar_hits_are_those_of_a_search_by_hand(corpus: Path, tmp_path: Path, restarts: bool) -> None:
    own = task(corpus, ar_threshold=150, restart_positions=restarts)
    data = data_of(own, tmp_path)
    train = [END, *tokens_of(data, "train")]
    bigrams = list(zip(train[1:], train[2:], strict=False))
    for segment in data.splits["validation"]:
        masks = data.parts["validation"][segment.name](slice(2, 6))
        x, y = segment.inputs[2:6], segment.labels[2:6]
        for row, asked, hit in zip(
            x.tolist(), y.tolist(), masks[f"hits/{segment.name}"].tolist(), strict=True
        ):
            for at, answer in enumerate(asked):
                start = max((n + 1 for n in range(at) if row[n] == END), default=0) if restarts else 0
                start = at + 1 if restarts and row[at] == END else start
                before = list(zip(row[start:at], row[start + 1 : at + 1], strict=False))
                rare = bigrams.count((row[at], answer)) <= 150
                assert hit[at] == (answer != IGNORED and (row[at], answer) in before and rare)
    asked = int(data.parts["test"]["32"](slice(None))["hits/32"].sum())
    assert questions(own, *prepare(own, tmp_path), "test") == asked > 0
    # recall is that of the first kind of rows
    first = int(data.parts["validation"]["32"](slice(None))["hits/32"].sum())
    assert questions(own, *prepare(own, tmp_path), "validation") == first > 0


def test_only_text_that_is_trained_on_and_scored_is_counted(corpus: Path, tmp_path: Path) -> None:
    """Documents are tokenized many at once, so that more is kept than is asked for."""
    path, digest = prepare(task(corpus, train={"tokens": 350}), tmp_path)
    data = load(path, digest)
    train = tokens_of(data, "train")
    assert len(train) == 320 and (path / "train.bin").stat().st_size > 2 * 350
    codes, counts = np.load(path / "bigrams.npy")
    bigrams = [257 * first + second for first, second in zip(train, train[1:], strict=False)]
    assert counts.tolist() == [bigrams.count(code) for code in codes.tolist()] and counts.any()
    scored = tokens_of(data, "validation")
    assert data.bytes_per_token["validation"] == sum(token != END for token in scored) / len(scored)


def test_the_threshold_is_chosen_to_give_the_usual_share(corpus: Path, tmp_path: Path) -> None:
    path, _ = prepare(task(corpus), tmp_path)
    data = load(*prepare(task(corpus), tmp_path))
    threshold = json.loads((path / "text.json").read_text())["ar_threshold"]
    share = data.parts["validation"]["32"](slice(None))["hits/32"].sum() / 300
    more = data_of(task(corpus, ar_threshold=2 * threshold + 20), tmp_path)
    assert share <= 0.064 < more.parts["validation"]["32"](slice(None))["hits/32"].sum() / 300


def test_positions_are_counted_in_octaves(corpus: Path, tmp_path: Path) -> None:
    data = data_of(task(corpus), tmp_path)
    masks = data.parts["test"]["32"](slice(None))
    places = {name: mask for name, mask in masks.items() if name.startswith("position")}
    inputs = data.splits["test"][0].inputs[:]
    asked = data.splits["test"][0].labels[:] != IGNORED
    # a document's first token comes after no token of it
    within = asked & (inputs != END)
    assert within.sum() < asked.sum() and not within[0, 0]
    assert torch.equal(sum(places.values(), torch.zeros_like(asked, dtype=torch.int64)), within.long())
    positions = data.positions(inputs)
    assert positions is not None
    assert torch.equal(places["position_4/32"], within & (positions >= 3) & (positions < 7))


def test_without_restarts_every_place_of_a_row_is_counted(corpus: Path, tmp_path: Path) -> None:
    data = data_of(task(corpus, restart_positions=False), tmp_path)
    masks = data.parts["test"]["32"](slice(None))
    asked = data.splits["test"][0].labels[:] != IGNORED
    assert torch.equal(masks["position_4/32"][:, 3:7], asked[:, 3:7])
    assert int(masks["position_4/32"].sum()) == int(asked[:, 3:7].sum())


def test_figures() -> None:
    own = task(Path("."))
    segments = {"32": Counts(6, 20.0, 10, 32), "64_stride_16": Counts(7, 10.0, 10, 64)}
    slices = {"hits/32": Counts(3, 2.0, 4, 32), "other/32": Counts(3, 18.0, 6, 32)}
    slices |= {"hits/64_stride_16": Counts(1, 2.0, 2, 64), "other/64_stride_16": Counts(6, 8.0, 8, 64)}
    slices |= {"position_1/32": Counts(0, 3.0, 1, 32), "position_2/32": Counts(0, 0.0, 0, 32)}
    found = own.figures(segments, slices)
    exp = pytest.approx
    assert found == {
        "recall": 0.75,
        "accuracy": 0.6,
        "loss": 2.0,
        "perplexity": exp(np.exp(2)),
        "perplexity_ar_hits": exp(np.exp(0.5)),
        "perplexity_other": exp(np.exp(3)),
        "ar_hit_share": 0.4,
        "perplexity_at_32": exp(np.exp(2)),
        "recall_at_32": 0.75,
        "perplexity_sliding_at_64": exp(np.e),
        "recall_sliding_at_64": 0.5,
        "loss_at_position_1": 3.0,
    }
    assert own.lengths("validation") == (32,) and own.longest == 64
    alone = own.figures({"32": segments["32"]}, {name: slices[name] for name in ("hits/32", "other/32")})
    assert alone["recall_at_32"] == alone["recall"] and alone["perplexity_at_32"] == alone["perplexity"]


def test_a_tokenizer_is_trained_on_the_text_and_kept(corpus: Path, tmp_path: Path) -> None:
    own = task(corpus, tokenizer="bpe", vocab_size=300, length=8, validation=[{"tokens": 50}])
    path, digest = prepare(own, tmp_path / "a")
    assert prepare(own, tmp_path / "b")[1] == digest, "the same text gives the same tokenizer"
    kept = kept_tokenizer(path, "bpe")
    assert kept is not None
    text = kept.decode(tokens_of(load(path, digest), "train"))
    assert any(document in text for document in documents()) and kept.size <= 300
    assert list(kept.encode(["the é"])[0]) == list(find_tokenizer(str(path)).encode(["the é"])[0])
    again = task(corpus, tokenizer=str(path), vocab_size=300, length=8, validation=[{"tokens": 50}])
    assert prepare(again, tmp_path / "c")[1] == digest


def test_a_tokenizer_trained_again_in_its_folder_gives_other_data(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    own = task(corpus, tokenizer=str(folder), vocab_size=300, length=8, validation=[{"tokens": 50}])
    train_tokenizer(documents(), 290).save(folder)
    first = prepare(own, tmp_path)
    assert prepare(own, tmp_path) == first
    train_tokenizer(documents(), 280).save(folder)
    second = prepare(own, tmp_path)
    assert second[0] != first[0] and second[1] != first[1]
    bytes_alone = task(corpus)
    assert bytes_alone.fingerprint() == bytes_alone.source.fingerprint(), "known data stays known"


def test_changed_files_are_stored_anew(corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    own = task(corpus, source={"files": str(file), "documents": "line"})
    file.write_text("\n".join(documents()))
    first = prepare(own, tmp_path)
    assert prepare(own, tmp_path) == first
    file.write_text("\n".join(documents(80)))
    second = prepare(own, tmp_path)
    assert second[0] != first[0] and second[1] != first[1]
    assert load(*first).digest == first[1], "what was stored before is still there"
    with (second[0] / "test.bin").open("r+b") as tokens:
        tokens.write(b"\7")
    load.cache_clear()
    with pytest.raises(ValueError, match="content digest"):
        load(*second)


def test_a_split_that_is_full_within_a_document_has_that_document(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long_documents(self: TextSource) -> Iterator[Piece]:
        for number in range(20):
            for part in range(4):
                yield Piece(f"{number} {WORDS[part]} " * 50, ends=part == 3)

    monkeypatch.setattr(TextSource, "pieces", long_documents)
    monkeypatch.setattr("recallfront.sweeps.text.corpus._TOGETHER", 1)
    own = task(corpus, train={"tokens": 400}, length=64, validation=[{"tokens": 300}])
    assert store(own, tmp_path)
    told = json.loads((tmp_path / "text.json").read_text())["splits"]
    assert {split: told[split]["documents"] for split in SPLITS} == dict.fromkeys(SPLITS, 1)


def test_no_more_is_read_than_is_asked_for(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(self: TextSource) -> Iterator[Piece]:
        for number in range(10**9):
            yield Piece(f"{number} {WORDS[number % 11]} " * 9000, ends=True)

    monkeypatch.setattr(TextSource, "pieces", endless)
    own = task(corpus, train={"tokens": 1000})
    assert store(own, tmp_path) and len(tokens_of(own.read(tmp_path), "train")) == 1000 // 32 * 32


def test_tokens_beyond_two_bytes(corpus: Path, tmp_path: Path) -> None:
    data = data_of(task(corpus, vocab_size=70_000), tmp_path)
    path, _ = prepare(task(corpus), tmp_path)
    assert torch.equal(data.splits["test"][0].labels[:], task(corpus).read(path).splits["test"][0].labels[:])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"source": {"files": "CORPUS/none*.txt"}},
            "task.source.files='CORPUS/none*.txt': there is no such file",
        ),
        (
            {"source": {"files": "CORPUS/rows.jsonl", "column": "body"}},
            "task.source.column='body': CORPUS/rows.jsonl has only the columns n, text",
        ),
        (
            {"source": {"files": "CORPUS/rows.jsonl", "column": "n"}},
            "task.source.column='n': CORPUS/rows.jsonl has int there, not text",
        ),
        ({"source": {"files": "CORPUS/empty.txt"}}, "task.source.files='CORPUS/empty.txt': holds no text"),
        ({"source": {"files": "CORPUS/broken.txt"}}, "CORPUS/broken.txt is not UTF-8"),
        ({"source": {"files": "CORPUS/broken.jsonl"}}, "CORPUS/broken.jsonl: line 3 is not JSON: "),
        ({"source": {"dataset": "CORPUS/nowhere"}}, "task.source.dataset='CORPUS/nowhere': cannot be loaded"),
        ({"source": {"files": "CORPUS/lines.txt"}}, "leaves none of the 1 documents to"),
        ({"length": 400}, "task: train has rows of 400 tokens, but no document longer than"),
        (
            {"validation": [{"length": 10**5, "tokens": 300}], "restart_positions": False},
            "rows of 100000 need more",
        ),
        ({"tokenizer": "CORPUS/tokenizer", "vocab_size": 257}, "task.vocab_size=257: must be at least 290"),
        ({"tokenizer": "CORPUS/tokenizer", "end_token": "<no>"}, "task.end_token='<no>': is not a token of"),
        ({"tokenizer": "CORPUS/nowhere"}, "task.tokenizer='CORPUS/nowhere': cannot be loaded"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    corpus: Path, tmp_path: Path, change: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (corpus / "empty.txt").write_text("")
    (corpus / "broken.txt").write_bytes(b"abc\xff\xfe")
    (corpus / "broken.jsonl").write_text('{"text": "a"}\n\n{"text": ')
    if "tokenizer" in change and not (corpus / "tokenizer").exists():
        (corpus / "tokenizer").mkdir()
        train_tokenizer(documents(), 290).save(corpus / "tokenizer")
    change = json.loads(json.dumps(change).replace("CORPUS", str(corpus)))
    with pytest.raises(SpecError) as refused:
        prepare(task(corpus, **change), tmp_path)
    message = str(refused.value)
    assert told.replace("CORPUS", str(corpus)) in message and "\n" not in message
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == [], (
        "nothing is left behind"
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("{broken", "tokenizer_config.json cannot be read: "),
        ("[" * 10**5, "tokenizer_config.json cannot be read: "),
        ("[1]", "tokenizer_config.json has no text as its eos_token"),
        ('{"eos_token": 7}', "tokenizer_config.json has no text as its eos_token"),
        ('{"eos_token": {"content": ["</s>"]}}', "tokenizer_config.json has no text as its eos_token"),
    ],
)
def test_damaged_settings_of_a_tokenizer_are_one_sentence(tmp_path: Path, settings: str, told: str) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    train_tokenizer(["some text"], 290).save(folder)
    (folder / "tokenizer_config.json").write_text(settings)
    with pytest.raises(SpecError) as refused:
        find_tokenizer(str(folder))
    message = str(refused.value)
    assert message.startswith(f"task.tokenizer={str(folder)!r}: {told}") and "\n" not in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"source": {}}, "needs either files or dataset"),
        ({"vocab_size": 256}, "greater than or equal to 257"),
        ({"end_token": "x"}, "end_token='x': tokenizer='bytes' has its own"),
        ({"test": [{"length": 16, "stride": 32}]}, "stride=32: must be at most length=16"),
        ({"test": [{}, {"length": 32}]}, "test: two kinds of rows have the same length and stride"),
    ],
)
def test_settings_that_do_not_fit(corpus: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told.replace("(", r"\(")):
        task(corpus, **change)
