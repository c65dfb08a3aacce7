"""Reading specifications: studies, files, and texts that are none."""

from pathlib import Path

import pytest
import yaml

from recallfront.sweeps import SpecError, load_spec
from recallfront.sweeps.load import parse_spec, studies
from tests.platform.specs import TINY, tiny_spec


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as refused:
        parse_spec(text, source="f.yaml")
    message = str(refused.value)
    assert message.startswith("f.yaml") and "\n" not in message
    return message


@pytest.mark.parametrize("name", sorted(studies()))
def test_every_study_is_a_sweep(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name and sum(1 for _ in spec.grid()) >= 1


def test_the_quickstart_is_what_the_readme_promises() -> None:
    spec = load_spec("quickstart")
    trials = [spec.trial(block, knobs, spec.seeds[0]) for block, knobs in spec.grid()]
    assert len(trials) >= 14
    assert {t.model.architecture for t in trials} >= {
        "attention",
        "window",
        "based",
        "hawk",
        "griffin",
        "grouped",
    }
    assert all(t.model.pattern.startswith("C") for t in trials), "the field's models begin with a convolution"


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(TINY))
    assert load_spec(str(file)).key == tiny_spec().key


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [1", "f.yaml, line 1: is not YAML: while parsing a flow sequence"),
        ("name: x\n\tspace: []", "line 2: is not YAML"),
        ("\x00", "is not YAML"),
        ("", "must be a mapping of keys such as name, task and space, not NoneType"),
        ("[1, 2]", "must be a mapping of keys such as name, task and space, not list"),
        ("just a word", "must be a mapping"),
        ("[" * 5000, "nested too deep"),
        ("name: 2024-13-45", "is not YAML: month must be in"),
        ("name: x\nname: y", "f.yaml, line 2: is not YAML: key 'name' stands there twice"),
        ("space: [{architecture: hawk, lru_width: 8, lru_width: 16}]", "key 'lru_width' stands there twice"),
        ("{[1, 2]: 3}", "found unhashable key"),
        ("{}", "name: is missing; needed are name, task, space"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_specification_is_refused(text: str, told: str) -> None:
    assert told in refusal(text)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/name:os.mkdir", "!unknown"])
def test_tags_run_no_code(tag: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    message = refusal(f"name: x\ntask: {tag} ['{mark}']")
    assert "f.yaml, line 2: tags that make Python objects are not allowed" in message
    assert not mark.exists()


def test_aliases_and_merges_are_plain_yaml() -> None:
    text = """
name: tiny
task:
  vocab_size: 32
  train: [&rows {input_seq_len: 16, num_kv_pairs: 2, examples: 64}]
  validation: [*rows]
  test: [{<<: *rows, examples: 8}]
space: [{architecture: hawk}]
"""
    task = parse_spec(text, source="f.yaml").task
    assert task.train == task.validation
    assert (task.test[0].input_seq_len, task.test[0].examples) == (16, 8)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\x80\x81\xff\x00")
    with pytest.raises(SpecError, match="binary.yaml: cannot be read: it must be YAML text in UTF-8"):
        load_spec(str(binary))
    with pytest.raises(
        SpecError, match="nowhere.yaml: is neither a file nor one of the studies .*quickstart"
    ):
        load_spec(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(SpecError, match="is neither a file"):
        load_spec(str(tmp_path))
    with pytest.raises(SpecError, match="cannot be read: File name too long"):
        load_spec("x" * 5000)
    with pytest.raises(SpecError, match="one of the studies quickstart"):
        load_spec("quikstart")
