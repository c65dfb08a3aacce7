"""The code that a trial runs: its version, and what of it is not committed."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import recallfront
from recallfront.platform.errors import secret_in

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


# Names of files that usually hold secrets, in lower case. A source is judged by what it holds, not by its name.
_SECRET_FILE: Final = re.compile(
    r"(^|/)(\.env(rc|[._-].*)?|[^/]*\.env|\.netrc|\.pgpass|\.npmrc|\.pypirc|\.?htpasswd|kubeconfig[^/]*|auth_token"
    r"|id_(rsa|dsa|ecdsa|ed25519)[^/]*|[^/]*\.(pem|key|p12|pfx|jks|keystore|kdbx|tfvars|tfvars\.json)"
    r"|(\.aws|\.ssh|\.kube|\.docker|\.secrets?|secrets?)/.*"
    r"|[^/]*(secret|credential|passw(or)?d)[^/]*(?<!\.py)(?<!\.pyi)(?<!\.[chu])(?<!\.cu)(?<!\.cuh)(?<!\.cpp))$"
)


# lines before a patch
_CHANGED, _NEW = "# changed, and left out: ", "# new, and left out: "
_NAMED_SO = "files with this name usually hold secrets"


def looks_secret(name: str) -> bool:
    """Whether a file of this name, with the folders that it is in, is likely to hold secrets, as `.env` is."""
    return _SECRET_FILE.search(name.lower()) is not None


def diff_text(home: Path | None = None) -> str | None:
    """The checkout's uncommitted changes as a patch, untracked sources (those outside `home`) included.

    Files that hold secrets, or are likely to, are left out; lines before the patch name them. A package that was sent
    to a cluster has the patch in `SOURCE_FILE`. None if there are no changes, or if the package is of neither
    kind.
    """
    index = _git("rev-parse", "--path-format=absolute", "--git-path", "index")
    if index is None:
        return _shipped_source().get("diff")
    with tempfile.TemporaryDirectory() as place:
        # untracked files are shown as new without touching the checkout's own
        own_index = Path(place) / "index"
        shutil.copyfile(index, own_index)
        new = _untracked(home)
        untracked = "\0".join(filter(_is_source, new))
        if untracked:
            # Paths on standard input: there may be more than a command line holds.
            add = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
            _git(*add, index=own_index, given=untracked)
        options = (
            "--no-ext-diff",
            "--no-color",
            "--no-textconv",
            "--no-renames",
            "--src-prefix=a/",
            "--dst-prefix=b/",
        )
        text = _git("diff", *options, "HEAD", index=own_index, strip=False)
    left = [f"{_NEW}{name}: {_NAMED_SO}\n" for name in new if looks_secret(name)]
    return "".join([*left, *_without_secret_files(text or "")]) or None


def left_out(diff: str | None) -> list[str]:
    """The files that `diff_text` left out, each with the reason."""
    starts = (_CHANGED, _NEW)
    return [line.partition("left out: ")[2] for line in (diff or "").splitlines() if line.startswith(starts)]


def changes_code(diff: str | None) -> bool:
    """Whether more than new files with secrets, which are no code, separates the checkout from its commit."""
    return any(line.startswith(("diff --git ", _CHANGED)) for line in (diff or "").splitlines())


def _without_secret_files(patch: str) -> list[str]:
    """The patch, file by file; of those that hold secrets, or are likely to, only the names, first."""
    kept, left = [], []
    for part in re.split(r"(?m)^(?=diff --git )", patch):
        both = part.partition("\n")[0].removeprefix("diff --git ").strip('"')
        # a/NAME b/NAME
        name = both[len(both) // 2 + 1 :].lstrip('"').removeprefix("b/")
        held = secret_in(part)
        if held is None and not looks_secret(name):
            kept.append(part)
        else:
            left.append(f"{_CHANGED}{name}: {f'it holds {held}' if held else _NAMED_SO}\n")
    return [*left, *kept]


def source_json(home: Path | None = None) -> str:
    """Commit and uncommitted changes, to send along with a package that leaves its checkout (`SOURCE_FILE`)."""
    return json.dumps({"git_commit": _git("rev-parse", "HEAD"), "diff": diff_text(home)})


def _git(*arguments: str, index: Path | None = None, given: str = "", strip: bool = True) -> str | None:
    """What git says about the checkout that the package runs from; None if there is none, or git fails."""
    root = _root()
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


def _untracked(home: Path | None) -> list[str]:
    """New files that git does not ignore, but for outputs."""
    outputs = home.resolve() if home else None
    names = (_git("ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    return [
        name
        for name in names
        if (path := _root() / name).is_file() and not (outputs and path.is_relative_to(outputs))
    ]


def _is_source(name: str) -> bool:
    path = _root() / name
    return (
        path.suffix in _SOURCE_SUFFIXES and path.stat().st_size <= _LARGEST_SOURCE and not looks_secret(name)
    )


def _root() -> Path:
    return Path(recallfront.__file__).resolve().parent.parent
