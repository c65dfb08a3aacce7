"""Answers of the pages: HTML from the templates, JSON and files, under one policy, compressed if the browser takes it.

FastAPI and jinja2 are imported where they are first used, so that reading this file costs little.
"""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recallfront.platform.metrics import duration

if TYPE_CHECKING:
    from fastapi import Request
    from fastapi.responses import Response
    from jinja2 import Environment

PREFIX = "/recallfront"
SCRIPT = "application/json"  # what a page's script accepts, errors too
PAGES = Path(__file__).with_name("pages")
_STATIC = {".css": "text/css", ".js": "text/javascript"}
_WORTH_COMPRESSING = 1000  # bytes
# nothing but our own files runs or is fetched; Plotly sets styles on elements and draws pictures of its own
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'"
)


def page(request: "Request", template: str, prefix: str, status_code: int = 200, **values: Any) -> "Response":
    """A page of a template, which escapes every value."""
    return _answer(request, render(template, prefix, **values), "text/html", status_code)


def as_json(request: "Request", value: Any, status_code: int = 200) -> "Response":
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return _answer(request, text, SCRIPT, status_code)


def render(template: str, prefix: str, **values: Any) -> str:
    return _templates().get_template(template).render(prefix=prefix, **values)


def warm() -> None:
    """Read and compress what is kept from the first page on."""
    _plotly()
    _templates().get_template("sweep.html")


def static_file(name: str) -> "Response":
    """A style sheet or a script of ours; 404 for anything else."""
    from fastapi.responses import Response

    known = {file.name: file for file in PAGES.iterdir() if file.suffix in _STATIC}
    if name not in known:
        return Response(status_code=404)
    return Response(known[name].read_bytes(), media_type=_STATIC[known[name].suffix])


def plotly_script() -> "Response":
    """Plotly's script as the Python package brings it, compressed."""
    from fastapi.responses import Response

    headers = {"Content-Encoding": "gzip", "Cache-Control": "max-age=86400"}
    return Response(_plotly(), media_type="text/javascript", headers=headers)


def _answer(request: "Request", text: str, media_type: str, status_code: int) -> "Response":
    from fastapi.responses import Response

    body = text.encode()
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store", "Vary": "Accept-Encoding"}
    if len(body) >= _WORTH_COMPRESSING and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 5, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, status_code=status_code, media_type=media_type, headers=headers)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["duration"] = duration
    return templates


@cache
def _plotly() -> bytes:
    from plotly.offline import get_plotlyjs

    return gzip.compress(get_plotlyjs().encode(), mtime=0)
