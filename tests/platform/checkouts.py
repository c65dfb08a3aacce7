"""A checkout of the sources as they are now, to change and to run from."""

import shutil
import subprocess
from pathlib import Path

import recallfront

ROOT = Path(recallfront.__file__).resolve().parent.parent


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def clean_checkout(folder: Path) -> Path:
    """`folder`, made, with all sources committed."""
    folder.mkdir()
    for area in ("kernels", "models", "sweeps", "platform", "dashboards", "benchmarks"):
        if (ROOT / area).exists():
            shutil.copytree(ROOT / area, folder / area, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        ROOT / "recallfront",
        folder / "recallfront",
        symlinks=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (folder / ".gitignore").write_text("__pycache__/\nignored.py\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return folder
