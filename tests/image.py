"""The image of the Dockerfile: its instructions, and what they install, made here without a container."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]


def instructions(name: str) -> list[str]:
    """What follows each instruction of that name."""
    joined = re.sub(r" *\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def install(folder: Path) -> tuple[dict[str, str], str]:
    """Install recallfront by the Dockerfile's own words, without a network -> variables to run it with, what is told.

    It is in a virtual environment below `folder`; all other packages, pip among them, are those of this process.
    """
    build, environment = folder / "build", folder / "environment"
    copy_sources(build)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    set_there = dict(word.split("=", 1) for line in instructions("ENV") for word in shlex.split(line))
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables = inherited | set_there | {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    (run,) = [line for line in instructions("RUN") if "recallfront --version" in line]
    here = run.replace("pip install", "python -m pip install --no-deps --no-build-isolation --no-index")
    done = subprocess.run(["sh", "-c", here], cwd=build, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return variables, done.stdout


def copy_sources(build: Path) -> None:
    """Put into a folder what the Dockerfile copies into that of its build."""
    build.mkdir()
    left_out = shutil.ignore_patterns(
        *(line.removeprefix("**/") for line in IGNORED if line.startswith("**/"))
    )
    for *sources, target in (line.split() for line in instructions("COPY") if "--from" not in line):
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, build / target, symlinks=True, ignore=left_out)
            else:
                shutil.copy(ROOT / source, build / target)
