"""What becomes of a Ray that was started here if a part of it is killed, or its driver.

Ray and psutil are imported where they are first used, so that the command starts fast.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from recallfront.platform.errors import UsageError

if TYPE_CHECKING:
    from psutil import Process

_PARTS: Final = ("raylet", "gcs_server")  # without them a driver waits for ever
_WATCH_SECONDS = 1.0
# for a driver that has lost its Ray to leave it by itself; if its store answers, it ends within 30 s
_FAREWELL_SECONDS = 15.0
_LOST = "Ray on this machine was killed, or ran out of memory: run the sweep again to resume it"


class RayLost(UsageError):
    """A part of the Ray that this process has started died."""


@contextmanager
def supervised() -> Iterator[None]:
    """Shut Ray down in the end; if a part of it that this process has started dies before, end the main thread.

    It is interrupted; if it is not done with Ray within 15 s, the process ends.

    Raises:
        RayLost: a part of Ray has died.
    """
    import ray

    lock, lost, over, ended = threading.Lock(), threading.Event(), threading.Event(), threading.Event()
    parts = _parts()

    def watch() -> None:
        while not over.wait(_WATCH_SECONDS):
            if all(map(_is_alive, parts)):
                continue
            with lock:
                if over.is_set():
                    return
                lost.set()
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            if not ended.wait(_FAREWELL_SECONDS):
                print(f"recallfront: {_LOST}", file=sys.stderr, flush=True)
                os._exit(2)
            return

    threading.Thread(target=watch, name="ray-watch", daemon=True).start()
    try:
        try:
            yield
        finally:
            with lock:
                over.set()
            ray.shutdown()
    except BaseException as error:
        if lost.is_set():
            raise RayLost(_LOST) from error
        raise
    finally:
        ended.set()


def _parts() -> "list[Process]":
    """Those of this process's Ray that are to be watched: none if it runs elsewhere, or in no main thread."""
    import psutil

    if threading.current_thread() is not threading.main_thread():
        return []
    return [process for process in psutil.Process().children() if process.name() in _PARTS]


@contextmanager
def reaped() -> Iterator[Callable[[], None]]:
    """Have the processes of a Ray that is started here end with this one, also if it is killed.

    To be entered before Ray is started; what it gives is to be called when Ray is up.
    """
    import ray

    reaper = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("reaper.py")), str(os.getpid())]
        + [str(Path(ray.__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        # in a session of its own: Ctrl-C in the terminal is not for it
        start_new_session=True,
    )
    assert reaper.stdin is not None
    pipe = reaper.stdin

    def is_up() -> None:
        with suppress(BrokenPipeError):
            print(file=pipe, flush=True)

    try:
        yield is_up
    finally:
        reaper.communicate()


def _is_alive(process: "Process") -> bool:
    import psutil

    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
