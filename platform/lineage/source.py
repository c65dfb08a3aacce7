"""The code that a trial runs: its version, and what of it is not committed."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import recallfront

SOURCE_FILE: Final = "source.json"  # in a package that was sent to a cluster, beside its __init__.py


_SOURCE_SUFFIXES: Final = frozenset(
    {
        ".py",
        ".pyi",
        ".toml",
        ".yaml",
        ".yml",
        ".cfg",
        ".html",
        ".css",
        ".js",
        ".c",
        ".cpp",
        ".h",
        ".cu",
        ".cuh",
    }
)


_LARGEST_SOURCE: Final = 2**20  # bytes


_SECONDS: Final = 10.0  # for git or nvidia-smi, each


def diff_text(home: Path | None = None) -> str | None:
    """The checkout's uncommitted changes as a patch, untracked sources (those outside `home`) included.

    A package that was sent to a cluster has them in `SOURCE_FILE`. None where there are none, or where the package
    is of neither kind.
    """
    index = _git("rev-parse", "--path-format=absolute", "--git-path", "index")
    if index is None:
        return _shipped_source().get("diff")
    with tempfile.TemporaryDirectory() as place:
        # untracked files are shown as new without touching the checkout's own
        own_index = Path(place) / "index"
        shutil.copyfile(index, own_index)
        untracked = "\0".join(_untracked_sources(home))
        if untracked:
            # Paths on standard input: there may be more than a command line holds.
            add = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
            _git(*add, index=own_index, given=untracked)
        text = _git(
            "diff", "--no-ext-diff", "--no-color", "--no-textconv", "HEAD", index=own_index, strip=False
        )
    return text or None


def source_json(home: Path | None = None) -> str:
    """Commit and uncommitted changes, to send along with a package that leaves its checkout (`SOURCE_FILE`)."""
    return json.dumps({"git_commit": _git("rev-parse", "HEAD"), "diff": diff_text(home)})


def _git(*arguments: str, index: Path | None = None, given: str = "", strip: bool = True) -> str | None:
    """What git says about the checkout that the package runs from; None where there is none, or git fails."""
    root = Path(recallfront.__file__).resolve().parent.parent
    if not (root / ".git").exists():  # an installed package may lie in somebody else's checkout
        return None
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"} | ({"GIT_INDEX_FILE": str(index)} if index else {})
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments],
            input=given.encode(),
            capture_output=True,
            timeout=_SECONDS,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = answer.stdout.decode(errors="replace")
    return None if answer.returncode else text.strip() if strip else text


def _shipped_source() -> dict[str, str | None]:
    path = Path(recallfront.__file__).with_name(SOURCE_FILE)
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _untracked_sources(home: Path | None) -> list[str]:
    root = Path(recallfront.__file__).resolve().parent.parent
    outputs = home.resolve() if home else None
    names = (_git("ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    return [
        name
        for name in names
        if (path := root / name).suffix in _SOURCE_SUFFIXES
        and path.is_file()
        and not (outputs and path.is_relative_to(outputs))
        and path.stat().st_size <= _LARGEST_SOURCE
    ]
