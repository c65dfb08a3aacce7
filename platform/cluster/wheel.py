"""Our own wheel, made from the package as it is imported: what a submitted sweep runs is what is installed here.

It names no dependencies. Ray installs a wheel with everything that it asks for, and the cluster's nodes have torch, Ray
and the others already (`recallfront doctor` says which); a build back end is not needed, nor the checkout.
"""

import base64
import hashlib
import os
import zipfile
from importlib.resources import files
from pathlib import Path

import recallfront
from recallfront.platform.lineage.source import SOURCE_FILE, looks_secret, source_json

_SUFFIXES = {".py", ".typed", ".yaml", ".html", ".css", ".js"}


def build_wheel(folder: Path) -> Path:
    """Write the wheel into `folder`; its version ends in a digest of all of it: Ray never takes one for another."""
    # the commit is lineage, and the wheel has no git
    sources = _package_files() | {f"recallfront/{SOURCE_FILE}": source_json().encode()}
    version = f"{recallfront.__version__}+{_digest(sources)}"
    path = folder / f"recallfront-{version}-py3-none-any.whl"
    info = f"recallfront-{version}.dist-info"
    contents = sources | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: recallfront\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: recallfront\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{info}/RECORD"
    lines = [f"{name},sha256={_hash(data)},{len(data)}" for name, data in contents.items()]
    contents[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in contents.items():
            wheel.writestr(name, data)
    return path


def _package_files() -> dict[str, bytes]:
    root = Path(str(files("recallfront")))
    found = {}
    for folder, _, names in os.walk(root, followlinks=True):  # in a checkout the areas are links
        for path in (Path(folder) / name for name in names):
            if path.suffix in _SUFFIXES and not looks_secret(path.relative_to(root).as_posix()):
                found[f"recallfront/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return dict(sorted(found.items()))


def _digest(contents: dict[str, bytes]) -> str:
    found = hashlib.sha256()
    for name, data in contents.items():
        found.update(f"{name}\0{len(data)}\0".encode() + data)
    return found.hexdigest()[:16]


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
