"""Keeps the newest version of a folder at the home's address, in a thread beside what makes the versions."""

import shutil
import threading
from itertools import count
from pathlib import Path

from recallfront.platform.errors import one_line
from recallfront.platform.home.vault import is_remote, keep_folder


class Upload:
    """Uploads of one folder, one at a time; of the versions that wait only the newest is kept.

    The files of a version are linked at once, so that it may be replaced meanwhile: they are never written again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._remote = path, is_remote(path)
        self._changed = threading.Condition()
        self._next: tuple[int, Path] | None = None
        self._offers = count()
        self._thread: threading.Thread | None = None
        self._busy, self._stopped = False, False
        self.kept = -1  # order of the newest version that is whole at the address
        # sentences on what could not be uploaded
        self.notices: list[str] = []

    def offer(self, order: int) -> None:
        """Have the folder as it is now uploaded; a version that still waits is left out."""
        if not self._remote:
            return
        # of each offer its own: one of the same step may be under way
        links = self._path.with_name(f".{self._path.name}.upload-{order}-{next(self._offers)}")
        shutil.rmtree(links, ignore_errors=True)
        shutil.copytree(self._path, links, copy_function=_link)
        with self._changed:
            waiting, self._next = self._next, (order, links)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if waiting is not None:
            shutil.rmtree(waiting[1], ignore_errors=True)

    def finish(self, seconds: float) -> bool:
        """Wait until the newest version is there -> whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._next is None and not self._busy, timeout=seconds)

    def close(self) -> None:
        """Upload nothing any more; what is under way ends after its file."""
        with self._changed:
            self._stopped = True
            waiting, self._next = self._next, None
            self._changed.notify_all()
        if waiting is not None:
            shutil.rmtree(waiting[1], ignore_errors=True)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._next is not None or self._stopped)
                if self._next is None:
                    return
                (order, links), self._next, self._busy = self._next, None, True
            try:
                keep_folder(self._path, source=links, order=order, goes_on=lambda: not self._stopped)
                self.kept = self.kept if self._stopped else order
            except Exception as error:  # of the store or of this machine; stores raise more than OSError
                self.notices.append(f"the {self._path.name} of step {order} was not kept ({one_line(error)})")
            shutil.rmtree(links, ignore_errors=True)


def _link(source: str, target: str) -> str:
    Path(target).hardlink_to(source)
    return target
