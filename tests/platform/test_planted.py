"""The search for planted secrets, which the tests of secrets rest on."""

import io
import tarfile
import zipfile
from pathlib import Path

from tests.platform.planted import MARK, holding


def test_secrets_are_found_in_files_and_in_what_archives_pack(tmp_path: Path) -> None:
    secret, plain = f"word={MARK}-word\n".encode() * 50, b"nothing\n" * 50
    for name, content in (("found", secret), ("plain", plain)):
        (tmp_path / f"{name}.txt").write_bytes(content)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("inner.txt", content)
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo("inner.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert MARK.encode() not in (tmp_path / "found.zip").read_bytes(), "it is compressed"
    assert sorted(path.name for path in holding(tmp_path)) == ["found.tar.gz", "found.txt", "found.zip"]
