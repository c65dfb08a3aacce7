"""The documents: their links lead somewhere, their commands can be typed, their specifications can be run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from recallfront.cli import app
from recallfront.sweeps.load import parse_spec

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MOST_WORDS = {"docs/architecture.md": 2000}


def pages() -> list[str]:
    return [str(page.relative_to(ROOT)) for page in PAGES]


def commands(text: str) -> Iterator[list[str]]:
    """What a page says to type: indented or fenced lines, without their comments."""
    joined = re.sub(r" \\\n\s+", " ", text)
    for line in re.findall(r"^ {4,}((?:recallfront|make) [^|]*?)$", joined, re.MULTILINE):
        if "..." not in line:
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        if not target.startswith(("http", "#")):
            assert ((ROOT / page).parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", pages())
def test_commands_can_be_typed(page: str) -> None:
    group = typer.main.get_command(app)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *arguments in commands((ROOT / page).read_text()):
        if program == "make":
            assert {word for word in arguments if "=" not in word} <= targets, arguments
        else:
            name, *rest = arguments
            group.commands[name].make_context(name, rest)  # type: ignore[attr-defined]


def test_the_readme_has_commands_of_each_job() -> None:
    typed = {arguments[1] for arguments in commands((ROOT / "README.md").read_text())}
    assert {"run", "submit", "status", "ui", "front", "pick", "rerun", "lineage", "doctor", "demo"} <= typed


def test_specifications_can_be_run() -> None:
    checked = []
    # those of docs/extending.md need its plug-ins: tests/platform/test_plugins.py runs them
    for page in set(pages()) - {"docs/extending.md"}:
        for example in re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL):
            if "\nspace:" in example:
                checked.append(page)
                assert parse_spec(example, source=page).blocks
    assert "README.md" in checked


@pytest.mark.parametrize("page", MOST_WORDS)
def test_a_page_stays_short(page: str) -> None:
    assert len((ROOT / page).read_text().split()) <= MOST_WORDS[page]
