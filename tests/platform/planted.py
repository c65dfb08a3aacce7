"""Secrets to plant, and a search for them."""

import base64
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

MARK = "".join(("pl4", "nted"))  # in every secret, so that one search finds any; in no source
SECRETS = {
    "MLFLOW_TRACKING_USERNAME": f"{MARK}-user",
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}-mlflow",
    "MLFLOW_TRACKING_TOKEN": f"{MARK}-bearer",
    "RAY_AUTH_TOKEN": f"{MARK}-ray-0123456789",
    "AWS_ACCESS_KEY_ID": f"{MARK}-aws-id",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-aws-key",
    "AZURE_STORAGE_KEY": f"{MARK}-azure",
    "HF_TOKEN": f"{MARK}-hf",
    "DATABASE_URL": f"postgresql://me:{MARK}-db@127.0.0.1/d",
}
# how MLflow's client sends a user and a password
BASIC = base64.b64encode(f"{MARK}-user:{MARK}-mlflow".encode()).decode()


def holding(folder: Path, *others: str) -> list[Path]:
    """The files below a folder that hold a planted secret, or one of `others`; of archives also what is packed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 3
    secrets = [text.encode() for text in (MARK, BASIC, *others)]
    return [file for file in files if any(secret in part for part in _contents(file) for secret in secrets)]


def _contents(file: Path) -> Iterator[bytes]:
    """What a file holds as it is, and, if it is an archive, unpacked."""
    yield file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            yield from map(packed.read, packed.namelist())
    elif tarfile.is_tarfile(file):
        with tarfile.open(file) as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                content = archive.extractfile(member)
                assert content is not None
                yield content.read()
