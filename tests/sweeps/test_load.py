"""Reading specifications: studies, files, and texts that are none."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from recallfront.sweeps.base import SpecError
from recallfront.sweeps.load import load_spec, load_study, parse_spec, studies
from recallfront.sweeps.plain_yaml import read_yaml
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.suite import Suite
from recallfront.sweeps.tasks.mqar import MQARConfig
from tests.platform.specs import TINY, tiny_spec


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as refused:
        parse_spec(text, source="f.yaml")
    message = str(refused.value)
    assert message.startswith("f.yaml") and "\n" not in message
    return message


PARTS = {key: value for key, value in TINY.items() if key != "task"} | {"name": "pair"}


def test_a_suite_is_one_sweep_a_setting_of_its_tasks(tmp_path: Path) -> None:
    file = tmp_path / "pair.yaml"
    settings = [{"task": TINY["task"]}, {"task": TINY["task"], "training": {"steps": 7}}]
    file.write_text(yaml.safe_dump(PARTS | {"tasks": {"recall": settings, "short": settings[:1]}}))
    suite = load_study(str(file))
    assert isinstance(suite, Suite) and set(suite.tasks) == {"recall", "short"}
    assert [part.spec.name for part in suite.parts] == ["pair-recall-1", "pair-recall-2", "pair-short"]
    first, second, _ = (part.spec for part in suite.parts)
    assert (first.training.steps, second.training.steps) == (TINY["training"]["steps"], 7)
    assert second.training.batch_size == TINY["training"]["batch_size"]
    block, knobs = next(first.grid())
    same = tiny_spec()
    assert first.trial(block, knobs, 0).key == same.trial(same.blocks[0], knobs, 0).key, (
        "trials know no suite"
    )
    with pytest.raises(SpecError, match="has tasks, so it is a suite of sweeps"):
        load_spec(str(file))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": [1]}, "tasks=[1]: must be a mapping of names to lists of settings"),
        ({"tasks": {}}, "tasks={}: must be a mapping of names to lists of settings"),
        ({"tasks": {"a": []}}, "tasks.a=[]: must be a list of settings, at least one"),
        ({"tasks": {"a": [{"name": "mqar"}]}}, "must be a mapping that has task"),
        ({"tasks": {"a": [{"task": TINY["task"], "name": "b"}]}}, "tasks.a[0].name='b': sweeps of a suite"),
        ({"tasks": {"a": [TINY]}, "task": TINY["task"]}, "has both task and tasks"),
        ({"tasks": {"a": [{"task": {"name": "mqarr"}}]}}, "pair-a: task"),
    ],
    ids=str,
)
def test_a_suite_that_cannot_be_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump(PARTS | changes))
    with pytest.raises(SpecError) as refused:
        load_study(str(file))
    assert told in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", sorted(studies()))
def test_every_study_is_a_sweep_or_a_suite_of_them(name: str) -> None:
    study = load_study(name)
    assert study.name == name and study.number_of_trials >= 1
    if not isinstance(study, Suite):
        assert load_spec(name).key == study.key


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
        ('a:\n  - "\\uD800"', r"line 2: has a character that is not text (\ud800)"),
        (r'"a\0": b', r"line 1: has a character that is not text (\x00)"),
        ("", "must be a mapping of keys such as name, task and space, not NoneType"),
        ("[1, 2]", "must be a mapping of keys such as name, task and space, not list"),
        ("just a word", "must be a mapping"),
        ("[" * 5000, "nested too deep"),
        ("name: 2024-13-45", "task: is missing"),
        ("a: &a [*a]", "f.yaml, line 1: the alias *a is inside its own value"),
        ("a: &a {b: *a}", "the alias *a is inside its own value"),
        ("a: *b", "found undefined alias 'b'"),
        ("a: !!timestamp x", "f.yaml, line 1: the tag !!timestamp is not allowed here"),
        ("a: !!bool maybe", "'maybe' is not !!bool"),
        ("a: !!int 1.5", "'1.5' is not !!int"),
        ("a: !!map [1]", "the tag !!map is not allowed here"),
        ("a: 0x" + "f" * 8000, "is a number of more than 40 digits"),
        ("a: 1" + "0" * 400, "is a number of more than 40 digits"),
        ("a: {<<: 3}", "<< takes a mapping"),
        ("--- a\n--- b", "another document"),
        ("a: 1\n'a': 2", "f.yaml, line 2: is not YAML: key 'a' appears twice"),
        ("x" * 300_000, "is longer than 256 KiB"),
        ("a: [" + "1," * 6000 + "]", "has more than 5000 values"),
        ("name: x\nname: y", "f.yaml, line 2: is not YAML: key 'name' appears twice"),
        ("space: [{architecture: hawk, lru_width: 8, lru_width: 16}]", "key 'lru_width' appears twice"),
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
    assert isinstance(task, MQARConfig)
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


LAUGHS = "[&a0 [l,l,l,l,l,l,l,l,l], " + ", ".join(
    f"&a{level} [{','.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 9)
)


@pytest.mark.parametrize(
    "where", ["seeds", "description", "space", "task", "name", "objectives", "<<", "new"]
)
def test_aliases_grow_to_a_bound_wherever_they_stand(where: str) -> None:
    started = time.process_time()
    message = refusal(f"{where}: {LAUGHS}]")
    assert "has more than 5000 values, those that aliases repeat included" in message
    assert time.process_time() - started < 1


def test_a_long_text_counts_each_time_that_an_alias_repeats_it() -> None:
    text = f"a: &a {'x' * 50_000}\nb: [{','.join(['*a'] * 1000)}]"
    assert "has more than 5000 values" in refusal(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0400", 400),
        ("0o17", 15),
        ("0x1F", 31),
        ("-7", -7),
        ("+7", 7),
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("no", "no"),
        ("on", "on"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("Null", None),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("! 1", "1"),
        ("[1, [2], {a: b}]", [1, [2], {"a": "b"}]),
        ("{1: 2, true: 3, null: 4}", {"1": 2, "true": 3, "null": 4}),
        ("[&a {x: 1}, {<<: *a, y: 2}, {x: 3, <<: [*a]}]", [{"x": 1}, {"x": 1, "y": 2}, {"x": 3}]),
        ("[&k word, {*k : 1}]", ["word", {"word": 1}]),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = read_yaml(text)
    assert found == value and type(found) is type(value)


def test_numbers_are_read_as_they_are_meant() -> None:
    changed = TINY | {"space": [{"architecture": "window", "window_size": "WINDOWS"}], "budget": {"hours": 1}}
    text = yaml.safe_dump(changed)

    def read(windows: str = "[2]", hours: str = "1") -> SweepSpec:
        return parse_spec(text.replace("WINDOWS", windows).replace("hours: 1", f"hours: {hours}"), source="f")

    assert read("[010, 0o10]").blocks[0].domains["window_size"] == (10, 8)
    assert read(hours="15e-1").budget.hours == 1.5
    with pytest.raises(SpecError, match="budget.hours='1:30'"):
        read(hours="1:30")
    with pytest.raises(SpecError, match="hours: '1_0' is text, not a number"):
        read(hours="1_0")
