"""Artifacts stay where a store may keep them: a server names neither folders of this machine nor other hosts."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_artifact, reading
from recallfront.platform.tracking.places import artifact_location, artifact_root
from tests.platform.servers import MlflowServer
from tests.platform.stores import ready_store

SERVER = "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    "named",
    [
        "mlflow-artifacts:/1/a/artifacts",
        "mlflow-artifacts://127.0.0.1:5000/1/a",
        "http://127.0.0.1:5000/api/2.0/mlflow-artifacts/artifacts/1",
        "s3://bucket/1/a",
    ],
)
def test_a_servers_own_artifacts_and_object_stores_are_used_as_named(named: str) -> None:
    assert artifact_root(SERVER, named) == named


@pytest.mark.parametrize("named", ["/etc", "file:///etc", "file://localhost/etc", "./here", ""])
def test_a_folder_that_a_server_names_is_asked_of_the_server(named: str) -> None:
    assert artifact_root(SERVER, named) is None


@pytest.mark.parametrize(
    "named",
    [
        "http://evil.example/x",
        "http://127.0.0.1:6000/x",
        "https://127.0.0.1:5000/x",
        "mlflow-artifacts://evil.example/x",
        "mlflow-artifacts://127.0.0.1:6000/x",
        "ftp://evil.example/x",
        "dbfs:/x",
        "runs:/a/b",
        "plugin://x",
    ],
)
def test_other_hosts_and_schemes_are_refused(named: str) -> None:
    with pytest.raises(ValueError, match="neither its own nor an object store"):
        artifact_root(SERVER, named)


def test_a_sqlite_store_keeps_artifacts_beside_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    own = artifact_location(uri, "study")
    assert own is not None and artifact_root(uri, own) == own
    beside = (tmp_path / "mlartifacts" / "study" / "run").as_uri()
    assert artifact_root(uri, "file:///elsewhere/mlartifacts/study/run") == beside, "the home was moved"
    for named in (
        "/etc",
        "file:///etc",
        f"{tmp_path}/../x",
        f"file://host{tmp_path}",
        f"{own}/../../../x",
        SERVER,
    ):
        with pytest.raises(ValueError, match="which is not beside it"):
            artifact_root(uri, named)


class _Hostile(BaseHTTPRequestHandler):
    """A tracking server that names a folder of its victim's machine as the place of every run's artifacts."""

    place = ""
    asked: list[str] = []

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        self.asked.append(self.path)
        info: dict[str, object] = {
            "run_id": "ab" * 16,
            "experiment_id": "1",
            "artifact_uri": self.place,
            "status": "RUNNING",
        }
        info |= {"run_uuid": "ab" * 16, "start_time": 1, "lifecycle_stage": "active"}
        files = [{"path": "../../stolen", "is_dir": False, "file_size": 1}] if "list" in self.path else []
        body = json.dumps({"run": {"info": info, "data": {}}, "files": files}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        pass


def test_a_hostile_server_gets_nothing_written_or_read_here(tmp_path: Path) -> None:
    secret = tmp_path / "victim" / "lineage"
    secret.mkdir(parents=True)
    (secret / "lineage.json").write_text("private")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hostile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        for place in (str(tmp_path / "victim"), (tmp_path / "victim").as_uri()):
            _Hostile.place = place
            client = open_client(uri)
            client.log_text("ab" * 16, "evil", "lineage/diff.patch")
            client.log_artifact("ab" * 16, str(secret / "lineage.json"), "model")
            with pytest.raises(UsageError, match="leaves its folder"), reading(uri) as reader:
                read_artifact(reader, "ab" * 16, "lineage/lineage.json")
        server.shutdown()
    assert [path.name for path in (tmp_path / "victim").rglob("*") if path.is_file()] == ["lineage.json"]


@pytest.mark.slow
def test_artifacts_in_a_folder_of_the_server_go_through_the_server(tmp_path: Path) -> None:
    with MlflowServer(tmp_path / "server") as server:
        experiment = open_client(server.uri).create_experiment("own", (tmp_path / "kept").as_uri())
        client = open_client(server.uri)
        run = client.create_run(experiment).info.run_id
        model = tmp_path / "model"
        model.mkdir()
        (model / "a.json").write_text("{}")
        client.log_text(run, "text", "lineage/lineage.json")
        client.log_artifacts(run, str(model), "model")
        assert read_artifact(client, run, "lineage/lineage.json") == "text"
        assert read_artifact(client, run, "lineage/other.json") is None
        assert [file.path for file in client.list_artifacts(run, "model")] == ["model/a.json"]
        assert {p.name for p in (tmp_path / "kept").rglob("*.json")} == {"lineage.json", "a.json"}


def test_a_store_whose_artifacts_lie_elsewhere_says_so(tmp_path: Path) -> None:
    uri = ready_store(tmp_path / "home")
    client = open_client(uri)
    run = client.create_run(client.create_experiment("x", "file:///etc")).info.run_id
    with pytest.raises(UsageError, match="keeps artifacts at 'file:///etc.*which is not beside it"):
        with reading(uri) as reader:
            read_artifact(reader, run, "passwd")
