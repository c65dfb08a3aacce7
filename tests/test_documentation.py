"""docs/api.md is what the docstrings say, and every public name says something."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import recallfront
from recallfront.documentation import api_page
from recallfront.kernels.gpu.report import operators

PAGE = Path(recallfront.__file__).parents[1] / "docs" / "api.md"


def test_the_page_is_of_this_version() -> None:
    assert PAGE.read_text() == api_page(), "run: python -m recallfront.documentation > docs/api.md"


def test_every_public_name_has_an_entry_with_text() -> None:
    entries = dict(re.findall(r"^#### (\w+)\n(.*?)(?=^#|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    for module in ("platform", "models"):
        assert set(import_module(f"recallfront.{module}").__all__) <= set(entries)
    assert {name for name in operators()} <= set(entries), "each operator has its function"
    for name, entry in entries.items():
        text = re.sub(r"```.*?```", "", entry, flags=re.DOTALL)
        assert re.search(r"[a-z]{3}", text), f"{name} has no docstring"


def test_what_plug_ins_are_made_of_has_an_entry() -> None:
    _, _, section = PAGE.read_text().partition("\n## Extending\n")
    entries = set(re.findall(r"^#### (\w+)$", section.partition("\n## ")[0], re.MULTILINE))
    example = PAGE.with_name("extending.md").read_text()
    used = re.findall(r"^from recallfront[\w.]* import (.*)$", example, re.MULTILINE)
    bases = {"Task", "StoredTask", "TaskData", "Segment", "Counts"}
    assert {"load", "Mixer", "MixerConfig", *bases, *", ".join(used).split(", ")} == entries


def test_signatures_are_those_of_the_functions() -> None:
    page = PAGE.read_text()
    for module, name in (
        ("platform", "pick"),
        ("models", "build"),
        ("kernels.short_conv.operator", "short_conv"),
    ):
        function = getattr(import_module(f"recallfront.{module}"), name)
        shown = re.search(rf"```python\n{name}\((.*?)\n```", page, re.DOTALL)
        assert shown is not None
        for parameter in inspect.signature(function).parameters:
            assert re.search(rf"\b{parameter}: ", shown[1]), f"{name}: {parameter}"


def test_the_package_lists_the_public_names() -> None:
    _, *entries = re.split(r"^- ", recallfront.__doc__ or "", flags=re.MULTILINE)
    listed = {
        area: set(re.findall(r"\w+", names)) for area, names in (entry.split(":", 1) for entry in entries)
    }
    assert listed.keys() == {f"recallfront.{area}" for area in ("platform", "sweeps", "models", "kernels")}
    for area in ("platform", "sweeps", "models"):
        module = import_module(f"recallfront.{area}")
        assert set(module.__all__) <= listed[f"recallfront.{area}"]
