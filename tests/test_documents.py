"""The documents: their links lead somewhere, their commands can be typed, their specifications can be run."""

import ast
import re
import shlex
from collections.abc import Iterator

import pytest
import typer.main

from recallfront.cli import app
from recallfront.sweeps.load import parse_spec
from tests.test_layout import AREAS, ROOT, sources

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("studies/*.md")])
MOST_WORDS = {"docs/architecture.md": 2000}
# For these there are plain words: continues, knows, repairs, appears twice, if, instead of, is inside, is not a.
BARRED = re.compile(
    r"\b(?:go|goes|going|went|gone) on\b|\b(?:is|are|was|were|been|be|not) told\b(?! apart)|\bmend(?:s|ed)?\b"
    r"|\bstands? (?:there )?twice\b|\braises? \w+ where\b|[.;] So (?:is|are|do|does) "
    r"|\bin the place of\b|\bstands? within\b|\bwhere there is no\b"
    r"|(?<!\bthere )\b(?:is|are) no (?!longer\b|more\b|higher\b|worse\b|such\b)"
    r"|\b(?:made|infinite|empty|none|null) where (?:it|that|this|there|no|none|nothing)\b",
    re.IGNORECASE,
)


def pages() -> list[str]:
    return [str(page.relative_to(ROOT)) for page in PAGES]


def commands(text: str) -> Iterator[list[str]]:
    """What a page says to type: indented or fenced lines, without their comments."""
    joined = re.sub(r" \\\n\s+", " ", text)
    for line in re.findall(r"^ {4,}((?:recallfront|make) [^|]*?)$", joined, re.MULTILINE):
        if "..." not in line:
            yield shlex.split(line, comments=True)


def anchors(text: str) -> set[str]:
    """Where the headings of a page are found, as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            file = (ROOT / page).parent / name if name else ROOT / page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file.read_text()), target


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


@pytest.mark.parametrize("page", [page for page in pages() if page != "CHANGELOG.md"])
def test_pages_are_in_plain_words(page: str) -> None:
    assert not BARRED.findall(" ".join((ROOT / page).read_text().split()))


def messages(tree: ast.Module) -> Iterator[str]:
    """The texts of a module that are no docstrings; of f-strings the fixed parts."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("area", [*AREAS, "recallfront"])
def test_messages_are_in_plain_words(area: str) -> None:
    found = {
        (file.relative_to(ROOT), text)
        for file in sources(area)
        for text in messages(ast.parse(file.read_text()))
        if BARRED.search(text)
    }
    assert not found
