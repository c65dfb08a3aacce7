"""The code of docs/models.md runs, from top to bottom."""

import re
from pathlib import Path

import pytest

import recallfront
from recallfront.models.configs import parse_config
from recallfront.models.configs.presets import PRESETS

PAGE = Path(recallfront.__file__).parents[1] / "docs" / "models.md"


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it writes where it stands
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    assert (tmp_path / "griffin-small" / "model.safetensors").is_file()


def test_the_table_is_of_this_version() -> None:
    """Each architecture has a line whose letters and knobs are its own."""
    lines = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    listed = {name: line for line in lines for name in re.findall(r"`(\w+)`", line[0])}
    assert len(listed) == 15
    for name, (_, mixers, knobs, _) in listed.items():
        config = parse_config({"architecture": name, "vocab_size": 8, "width": 8})
        letters = set("".join(re.findall(r"\(([A-Z, ]+)\)", mixers))) - set(", ")
        assert letters <= set(config.letters) and letters | set("CA") >= set(config.letters), name
        for knob in re.findall(r"`(\w+)`", knobs):
            assert knob in type(config).model_fields or knob in listed, f"{name}: {knob}"
    assert "griffin-1.3b" in PRESETS
