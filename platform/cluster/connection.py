"""The Ray cluster that a sweep runs on: one started here, or an existing one.

Ray is imported where it is first used, so that the command starts fast.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from recallfront.platform.cluster.tokens import HOW_TO_GIVE_A_TOKEN, ensure_token, find_token
from recallfront.platform.cluster.watch import reaped, supervised
from recallfront.platform.errors import UsageError, one_line

_CONNECT_SECONDS = 5.0
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, section 3.4
# the longest name below a temporary folder, and what Linux allows (`sun_path` in unix(7), less the final 0)
_SOCKET, _LONGEST_SOCKET = "ray/session_2026-11-28_11-06-37_603681_4194304/sockets/plasma_store", 107
_LOG = logging.getLogger("recallfront")
_EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

# Tune's own settings for a sweep of ours; what a user has set stays.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow is where results go
    "TUNE_MAX_PENDING_TRIALS_PG": "1",  # a sampler knows as much as possible when it proposes
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # interrupting is ours: Tune would end as if all had been run
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never read again: the ledger is
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",  # a node that an autoscaler adds takes minutes
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # at Ray's 2 s an end, or a loss, is heard of a second late
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process of each trial that only informs its training loop
    "RAY_worker_niceness": "0",  # at Ray's 15 a trial gets 3 % of a core that anything else computes on
}


def set_environment() -> None:
    """Set what a Ray that is started, or a sweep on one that is joined, reads from the environment."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Connect to the cluster at `address` ("auto" or HOST:PORT), or start one on this machine, for as long as needed.

    Raises:
        UsageError: nothing answers at the address, or it refuses the token; or Ray does not start here.
    """
    set_environment()
    import ray

    # What becomes of trials is the sweep's to say; Tune would print the traceback of each that is lost and retried.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():  # the caller's own connection, and the caller's to end
        yield
        return
    with ExitStack() as stack:
        if address is None:
            is_up = stack.enter_context(reaped())
            _start()
            is_up()
        else:
            _join(address)
        stack.enter_context(_terminable())
        stack.enter_context(supervised())
        yield


def named_cluster() -> str | None:
    """The cluster that RAY_ADDRESS names, as for every program that uses Ray; None for a Ray of one's own."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def _temporary_folder() -> str | None:
    """Where Ray keeps its sockets, if their names would be too long below TMPDIR, as batch systems give one to jobs.

    Raises:
        UsageError: RAY_TMPDIR is too long itself, or there is no shorter folder.
    """
    own = os.environ.get("RAY_TMPDIR")
    folder = own or tempfile.gettempdir()
    if len(f"{folder}/{_SOCKET}") <= _LONGEST_SOCKET:
        return None
    if own or not os.access("/tmp", os.W_OK):
        raise UsageError(
            f"{'RAY_TMPDIR' if own else 'TMPDIR'} {folder!r}: is too long for the names of Ray's sockets; name a "
            f"folder of at most {_LONGEST_SOCKET - len(_SOCKET) - 1} characters as RAY_TMPDIR"
        )
    _LOG.warning("TMPDIR is too long for the names of Ray's sockets: Ray keeps its files in /tmp/ray")
    return "/tmp/ray"


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a sweep as Ctrl-C does; Ray's own handler, set when it starts, dumps the stack and aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start() -> None:
    import ray

    folder = _temporary_folder()
    ensure_token()
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
    # Ray raises plain exceptions, as when a busy machine takes 30 s for its processes
    except Exception as error:
        place = folder or f"{os.environ.get('RAY_TMPDIR') or tempfile.gettempdir()}/ray"
        raise UsageError(
            f"Ray does not start on this machine ({one_line(error, 300)}); run the command again when the machine is "
            f"less busy, or see the logs below {place}/session_latest"
        ) from error


def _join(address: str) -> None:
    import ray

    if address != "auto":
        try:
            _greet(address)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"address {address!r}: no Ray cluster answers there ({error}); give HOST:PORT of its GCS "
                "(port 6379 by default), or omit --address to run on this machine"
            ) from None
    token, source = find_token()
    if token and "RAY_AUTH_MODE" not in os.environ:  # Ray itself uses a token it finds for "auto" alone
        from ray._raylet import Config  # type: ignore[attr-defined]

        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        reason = one_line(error, 300)
        hint = f"refuse the token of {source}" if token else "ask for a token, and this machine has none"
        raise UsageError(
            f"address {address!r}: cannot join the Ray cluster ({reason}); it may {hint}: {HOW_TO_GIVE_A_TOKEN}"
        ) from None


def _greet(address: str) -> None:
    """Open an HTTP/2 connection, as gRPC does: Ray itself would try for minutes where something else listens.

    Raises:
        OSError, ValueError: nothing answers, it is no HTTP/2, or this is not an address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("not HOST:PORT")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        connection.sendall(_HTTP2_PREFACE + _EMPTY_SETTINGS)
        answer = connection.recv(len(_EMPTY_SETTINGS))
    if answer[3:4] != _EMPTY_SETTINGS[3:4]:  # the type of a frame; a server's first one are its settings
        raise ValueError("what listens there is not Ray")
