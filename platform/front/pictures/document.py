"""A report as blocks, written as Markdown with its figures beside it, and as one HTML page that holds them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from recallfront.platform.front.pictures.appearance import FAINT, INK, LINE
from recallfront.platform.front.pictures.figures import FONT
from recallfront.platform.front.pictures.note import plain

_STYLE = (
    f"body {{ margin: 2rem auto; max-width: 1000px; padding: 0 1rem; color: {INK}; background: #fff }} "
    f"body {{ font: 16px/1.5 {FONT} }} "
    f"table {{ border-collapse: collapse; font-size: .9rem; display: block; overflow-x: auto }} "
    f"th, td {{ border-bottom: 1px solid {FAINT}; padding: .3rem .6rem; text-align: left; vertical-align: top }} "
    f"img {{ max-width: 100% }} figcaption {{ color: {LINE}; font-size: .9rem }} figure {{ margin: 1rem 0 }} "
    f"pre {{ background: #f4f6f8; padding: .8rem; overflow-x: auto }}"
)


@dataclass(frozen=True)
class Heading:
    """A section's heading; level 1 is the document's title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Cells:
    """A table."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A figure as SVG text; its PNG lies beside the report under the same name."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Commands:
    """Lines to type."""

    lines: Sequence[str]


DocumentBlock = Heading | Paragraph | Cells | Picture | Commands


def as_markdown(blocks: Sequence[DocumentBlock]) -> str:
    """The document in Markdown; its pictures are files beside it."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def as_html(blocks: Sequence[DocumentBlock]) -> str:
    """The document as one HTML page that needs nothing else."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    body = "\n".join(map(_html, blocks))
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _markdown(block: DocumentBlock) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {plain(text)}"
        case Paragraph(text):
            return plain(text)
        case Cells(head, rows):
            lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Picture(name, _, caption):
            return f"![{plain(caption)}]({name}.svg)"
        case Commands(lines):
            return "\n".join(f"    {line}" for line in lines)


def _html(block: DocumentBlock) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Cells(head, rows):
            top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
            lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
            body = "".join(f"<tr>{line}</tr>" for line in lines)
            return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
        case Picture(_, svg, caption):
            # as an image: nothing in it can run
            data = base64.b64encode(svg.encode()).decode()
            image = f"<img alt='{escape(caption)}' src='data:image/svg+xml;base64,{data}'>"
            return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
        case Commands(lines):
            return f"<pre>{escape(chr(10).join(lines))}</pre>"
