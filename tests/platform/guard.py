"""HTTPS that asks for a password and passes on what has it: a team's guard in front of its MLflow server."""

import base64
import datetime
import http.client
import ipaddress
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_OF_ONE_CONNECTION = {"connection", "transfer-encoding", "host", "keep-alive"}


class Guard:
    """HTTPS on a free port before `port`, for one user. Use as a context manager; `answers` counts status codes.

    An upload waits while `is_quick` is cleared; `is_held` is set once one does.
    """

    def __init__(self, folder: Path, port: int, user: str, password: str) -> None:
        self.certificate, key = _certificate(folder)
        self.answers: Counter[int] = Counter()
        wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        answers = self.answers
        self.is_quick, self.is_held = is_quick, is_held = threading.Event(), threading.Event()
        is_quick.set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != wanted:
                    self._answer(401, [("WWW-Authenticate", 'Basic realm="guard"')], b"who are you?")
                    return
                if self.command == "PUT" and not is_quick.is_set():
                    is_held.set()
                    is_quick.wait()
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                own = {k: v for k, v in self.headers.items() if k.lower() not in _OF_ONE_CONNECTION}
                connection.request(self.command, self.path, body, own)
                found = connection.getresponse()
                headers = [(k, v) for k, v in found.getheaders() if k.lower() not in _OF_ONE_CONNECTION]
                self._answer(found.status, headers, found.read())
                connection.close()

            def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                answers[status] += 1
                self.send_response(status)
                for name, value in headers:
                    if name.lower() != "content-length":
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

            def log_message(self, format: str, *args: object) -> None:
                """Nothing is printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.uri = f"https://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "guard")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "guard.pem", folder / "guard.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files
