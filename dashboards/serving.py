"""Serves MLflow together with recallfront's pages, from this machine's store to this machine's browser."""

import errno
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from recallfront.dashboards.actions import ALLOWED
from recallfront.platform.errors import UsageError
from recallfront.platform.tracking.store import prepare_store

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that nothing here uses
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore:starlette.middleware.wsgi is deprecated",  # MLflow's matter, not the user's
}


def serve(
    home: Path,
    tracking_uri: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    allow_actions: bool = False,
    tell: Callable[[str], None] = print,
) -> int:
    """Run `mlflow server` with our pages until it ends -> its exit status, 0 when it was stopped from here.

    Args:
        home: the folder of all outputs.
        tracking_uri: the store; None is the SQLite file in `home`.
        host: the address to listen on; who can reach it can read and change the store.
        port: the port to listen on.
        allow_actions: let the pages pick, run trials again and cancel; only on an address of this machine alone.
        tell: gets the line that says where the pages are, once they answer.

    Raises:
        UsageError: the port is taken, or the store is itself a server, or cannot be opened.
    """
    if tracking_uri and tracking_uri.startswith(("http://", "https://")):
        raise UsageError(
            f"{tracking_uri} is a server already: open it in a browser; recallfront's pages are on it, below "
            "/recallfront/, when it was started by `recallfront ui` or `mlflow server --app-name recallfront`"
        )
    if allow_actions and not _is_loopback(host):
        raise UsageError(
            f"--allow-actions with --host {host}: anyone who reaches it could start work here; listen on 127.0.0.1, "
            "and put a proxy that asks for a password before it"
        )
    _require_free(host, port)
    command = server_command(prepare_store(tracking_uri, home, create=False), home, host=host, port=port)
    # a session of its own, so that an interrupt reaches the server once, from here, and all of it ends together
    environment = os.environ | _ENVIRONMENT | {"RECALLFRONT_HOME": str(home.resolve())}
    environment[ALLOWED] = "1" if allow_actions else "0"
    environment |= not_proxied(host, environment)
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    with _interrupts_stop(server) as stopped:
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if _wait_until_up(server, address):
            tell(f"recallfront: {address}/recallfront/  (MLflow: {address}/)  Ctrl+C stops it")
        status = server.wait()
    return 0 if stopped else status


def server_command(store: str, home: Path, *, host: str, port: int) -> list[str]:
    """The command line that serves a store with our pages."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "recallfront"),
        *("--backend-store-uri", store, "--artifacts-destination", str(home.resolve() / "mlartifacts")),
        *("--allowed-hosts", ",".join(allowed_hosts(host))),
        *("--host", host, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"),
    ]


def not_proxied(host: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which the server reaches itself past a proxy, added to what they hold in the environment."""
    before = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    own = [] if before.strip() == "*" else sorted(_own_names(host))  # only alone it means every host
    names = ",".join([*filter(None, [before]), *own])
    return {"no_proxy": names, "NO_PROXY": names}


def allowed_hosts(host: str) -> list[str]:
    """The names that a browser may call this server by: those it listens on, and those the user names.

    Any other is of a page that leads its own name to this machine (DNS rebinding). MLflow's default patterns, such as
    `10.*`, hold for names too: `10.evil.example`. The user's are in MLflow's own variable MLFLOW_SERVER_ALLOWED_HOSTS.
    """
    allowed = []
    for name in sorted(_own_names(host)):
        plain = f"[{name}]" if ":" in name else name
        allowed += [plain, f"{plain.replace('[', '[[]', 1)}:*"]  # a pattern, in which [ begins a set
    named = os.environ.get("MLFLOW_SERVER_ALLOWED_HOSTS", "")
    return allowed + [name.strip() for name in named.split(",") if name.strip()]


def _own_names(host: str) -> set[str]:
    """What a server that listens on a host is called."""
    names = {"localhost", "127.0.0.1", "::1", host}
    if host in ("0.0.0.0", "::"):
        found = [own for owns in psutil.net_if_addrs().values() for own in owns]
        spoken = (socket.AF_INET, socket.AF_INET6)
        names |= {own.address.partition("%")[0] for own in found if own.family in spoken}
    return names


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_free(host: str, port: int) -> None:
    if not 0 < port < 65536:
        raise UsageError(f"port {port}: must be from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # a server that has just ended is no bar
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"host {host!r}: is not an address of this machine ({error.strerror})") from None
        raise UsageError(
            f"cannot listen on {host} port {port} ({error.strerror}): give another one with --port"
        ) from None


@contextmanager
def _interrupts_stop(server: "subprocess.Popen[bytes]") -> Iterator[list[int]]:
    """While entered, Ctrl+C or SIGTERM stops the server (and is listed); in the end nothing of it is left."""
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        _signal(server, signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _signal(server, signal.SIGTERM)
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        _signal(server, signal.SIGKILL)
        server.wait()


def _signal(server: "subprocess.Popen[bytes]", number: int) -> None:
    try:
        os.killpg(server.pid, number)
    except ProcessLookupError:
        pass


def _wait_until_up(server: "subprocess.Popen[bytes]", address: str) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with directly.open(f"{address}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False
