"""Which names the pages' server answers to."""

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from mlflow.server.security_utils import is_allowed_host_header
from requests.utils import should_bypass_proxies

from recallfront.dashboards.serving import _wait_until_up, allowed_hosts, not_proxied


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "192.168.1.7"])
@pytest.mark.parametrize(
    "asked",
    [
        "10.evil.example",
        "192.168.evil.example:5000",
        "172.16.evil.example",
        "fc00:evil",
        "evil.example:5000",
        "",
    ],
)
def test_names_that_only_look_like_private_addresses_are_refused(host: str, asked: str) -> None:
    assert not is_allowed_host_header(allowed_hosts(host), asked)


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", "127.0.0.1:5000"),
        ("127.0.0.1", "localhost:8080"),
        ("127.0.0.1", "[::1]:5000"),
        ("192.168.1.7", "192.168.1.7:5000"),
        ("box.lan", "box.lan:5000"),
        ("0.0.0.0", "127.0.0.1"),
    ],
)
def test_the_addresses_that_it_listens_on_are_answered(host: str, asked: str) -> None:
    assert is_allowed_host_header(allowed_hosts(host), asked)


def test_hosts_that_the_user_names_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "team.example, other.example")
    assert is_allowed_host_header(allowed_hosts("127.0.0.1"), "team.example")
    assert not is_allowed_host_header(allowed_hosts("127.0.0.1"), "third.example")


def test_the_server_reaches_itself_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.lan:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    for given in ({}, {"NO_PROXY": "store.lan"}, {"no_proxy": "store.lan"}):
        told = not_proxied("192.168.1.7", given)
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        for host in ("192.168.1.7", "127.0.0.1", "localhost", "[::1]"):
            assert should_bypass_proxies(f"http://{host}:5000/health", None), host
        assert should_bypass_proxies("http://store.lan/", None) == bool(given)
        assert not should_bypass_proxies("http://other.lan/", None)
    assert set(not_proxied("192.168.1.7", {"no_proxy": "*"}).values()) == {"*"}, "every host, only alone"


def test_its_health_is_asked_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
                assert _wait_until_up(process, f"http://127.0.0.1:{server.server_port}")
                process.communicate(b"\n")
        finally:
            server.shutdown()
            thread.join()
