"""Datasets on disk: built once, known by their content, shared by processes, never half-built."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from recallfront.sweeps.base import SpecError
from recallfront.sweeps.data import content_digest, load, prepare
from recallfront.sweeps.tasks.base import SPLITS, Segment
from recallfront.sweeps.tasks.mqar import MQARConfig
from recallfront.sweeps.tasks.registry import parse_task
from tests.platform.specs import SEGMENT

TASK = MQARConfig.model_validate(
    {
        "vocab_size": 32,
        "train": [SEGMENT | {"examples": 40}, {"input_seq_len": 24, "num_kv_pairs": 3, "examples": 20}],
        "validation": [SEGMENT | {"examples": 10}],
        "test": [SEGMENT | {"examples": 12}],
    }
)


def test_what_is_read_is_what_was_drawn(tmp_path: Path) -> None:
    path, digest = prepare(TASK, tmp_path)
    data = load(path, digest)
    assert data.digest == digest == content_digest(data.splits)
    for split in SPLITS:
        for (name, inputs, labels), (drawn_name, drawn_inputs, drawn_labels) in zip(
            data.splits[split], TASK.build(split), strict=True
        ):
            assert name == drawn_name and inputs[:].dtype == torch.int64
            assert torch.equal(inputs[:], drawn_inputs[:]) and torch.equal(labels[:], drawn_labels[:])
    assert [tuple(inputs[:].shape) for _, inputs, _ in data.splits["train"]] == [(40, 16), (20, 24)]


def test_it_is_a_hugging_face_dataset(tmp_path: Path) -> None:
    from datasets import load_from_disk

    path, _ = prepare(TASK, tmp_path)
    dataset = load_from_disk(str(path / "train"))
    assert len(dataset) == 60 and set(dataset.column_names) == {"inputs", "labels", "slice"}
    assert set(dataset["slice"]) == {"length_16_pairs_2", "length_24_pairs_3"}


def test_it_is_built_once(tmp_path: Path) -> None:
    path, digest = prepare(TASK, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert prepare(TASK, tmp_path) == (path, digest)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    _, digest = prepare(TASK, tmp_path / "a")
    assert prepare(TASK, tmp_path / "b")[1] == digest
    other = TASK.model_copy(update={"seed": 7})
    path, other_digest = prepare(other, tmp_path / "a")
    assert other_digest != digest
    splits = load(path, other_digest).splits
    name, inputs, labels = splits["test"][0]
    changed = inputs[:].clone()
    changed[0, 0] += 1
    assert content_digest({**splits, "test": [Segment(name, changed, labels)]}) != other_digest


def test_splits_share_no_rows(tmp_path: Path) -> None:
    path, digest = prepare(TASK, tmp_path)
    splits = load(path, digest).splits
    rows = {
        split: {
            tuple(row)
            for _, inputs, _ in splits[split]
            if inputs[:].shape[1] == 16
            for row in inputs[:].tolist()
        }
        for split in SPLITS
    }
    assert not rows["train"] & rows["test"] and not rows["validation"] & rows["test"]
    assert not rows["train"] & rows["validation"]


def test_data_that_was_changed_is_not_used(tmp_path: Path) -> None:
    path, digest = prepare(TASK, tmp_path)
    (arrow,) = (path / "test").glob("*.arrow")
    content = arrow.read_bytes()
    row = TASK.build("test")[0][1][0].numpy().tobytes()
    # of a row; and of what says where rows are, which may end a process that reads it
    for at in (content.index(row), 0, len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 1
        arrow.write_bytes(changed)
        load.cache_clear()
        with pytest.raises(ValueError, match=rf"test/{arrow.name} does not match its digest"):
            load(path, digest)
    arrow.write_bytes(content)
    with pytest.raises(ValueError, match=f"content digest {digest[:16]}, expected 0000"):
        load(path, "0" * 64)


def test_rows_that_cannot_be_drawn_are_said_with_the_task(tmp_path: Path) -> None:
    rows = [{"length": 4, "examples": 200}]
    task = parse_task(
        {
            "name": "mad_noisy_in_context_recall",
            "vocab_size": 32,
            "frac_noise": 0.9,
            "train": rows,
            "validation": rows,
            "test": rows,
        }
    )
    with pytest.raises(
        SpecError, match=r"task mad_noisy_in_context_recall: a row of 4 tokens is noise alone"
    ):
        prepare(task, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_an_interrupted_build_is_built_again(tmp_path: Path) -> None:
    path, digest = prepare(TASK, tmp_path)
    (path / "manifest.json").unlink()
    (path / "train" / "leftover").write_text("half")
    assert prepare(TASK, tmp_path) == (path, digest)
    assert not (path / "train" / "leftover").exists()
    assert json.loads((path / "manifest.json").read_text())["digest"] == digest


@pytest.mark.slow
def test_processes_that_prepare_together_build_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(prepare, [(TASK, tmp_path)] * 2)
    assert len(set(found)) == 1
    load.cache_clear()
    load(*found[0])
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [found[0][0].name], (
        "no half-built folder is left"
    )
