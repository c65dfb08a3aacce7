"""A real S3 server, moto's, on a free port of the loopback device: it fails as often as it is told to."""

import logging
import os
import random
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import pytest

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "planted-key-id",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
BUCKET = "bucket"


class S3Server:
    """S3 in a thread of this process; as a context manager, which sets the environment to find it by.

    `failing` is the share of requests that get a 503, drawn from a seed; while `away` is set, all of them do, and so do
    those whose number, from 1, is in `outage`. While `silent` is set, connections are accepted, and no request gets an
    answer. A request without credentials is refused, as by AWS.
    """

    def __init__(self, failing: float = 0.0) -> None:
        self.failing, self.away, self.silent = failing, threading.Event(), threading.Event()
        self.requests = self.failed = 0
        self.outage = range(0)
        self._draws, self._lock = random.Random(0), threading.Lock()

    def __enter__(self) -> Self:
        server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
        serving = pytest.importorskip("werkzeug.serving")
        moto = pytest.importorskip("moto.moto_server.werkzeug_app")
        del server
        self._app = moto.DomainDispatcherApplication(moto.create_backend_app)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = serving.make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._before = {name: os.environ.get(name) for name in (*ENVIRONMENT, "AWS_ENDPOINT_URL")}
        os.environ.update(ENVIRONMENT | {"AWS_ENDPOINT_URL": self.endpoint})
        failing, self.failing = self.failing, 0.0
        self.make_bucket(BUCKET)
        self.failing = failing
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def make_bucket(self, name: str) -> None:
        from pyarrow.fs import S3FileSystem

        S3FileSystem(
            endpoint_override=self.endpoint, region="us-east-1", allow_bucket_creation=True
        ).create_dir(name)

    def _answer(self, request: dict[str, Any], start: Any) -> Iterable[bytes]:
        with self._lock:
            self.requests += 1
            is_away = self.away.is_set() or self.requests in self.outage
            fails = is_away or self._draws.random() < self.failing
            self.failed += fails
        while self.silent.is_set():
            time.sleep(0.05)
        if fails:
            return _error(start, "503 Slow Down", "SlowDown")
        if "HTTP_AUTHORIZATION" not in request:
            return _error(start, "403 Forbidden", "AccessDenied")
        answer: Iterable[bytes] = self._app(request, start)
        return answer


def _error(start: Any, status: str, code: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode()]
