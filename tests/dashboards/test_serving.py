"""Which names the pages' server answers to."""

import pytest
from mlflow.server.security_utils import is_allowed_host_header

from recallfront.dashboards.serving import allowed_hosts

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
