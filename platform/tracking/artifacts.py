"""MLflow's client, kept to the places where a store may keep artifacts."""

import errno
import os
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities import FileInfo, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service.client import TrackingServiceClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.request_utils import augmented_raise_for_status
from mlflow.utils.rest_utils import http_request

from recallfront.platform.tracking.places import artifact_root

_LIST, _GET = "/api/2.0/mlflow/artifacts/list", "/get-artifact"
_UPLOAD = "/ajax-api/2.0/mlflow/upload-artifact"
_CHUNK = 2**20  # bytes
_REMEMBERED = 256  # runs whose artifacts' places are kept in mind


class GuardedClient(MlflowClient):
    """MLflow's client, except that it reads and writes artifacts in places that `artifact_root` allows alone."""

    def __init__(self, tracking_uri: str) -> None:
        super().__init__(tracking_uri=tracking_uri)
        self._tracking_client = self._service = _GuardedService(tracking_uri)

    def remember(self, run: Run) -> None:
        """Note where a run's artifacts are, so that the store is not asked for it."""
        self._service.remember(run)


class _GuardedService(TrackingServiceClient):
    """The part of MLflow's client that asks where a run's artifacts are."""

    def __init__(self, tracking_uri: str) -> None:
        super().__init__(tracking_uri)  # type: ignore[no-untyped-call]
        self._places: dict[str, str] = {}  # of runs' artifacts

    def _get_artifact_repo(self, resource_id: str, *, resource: Any = "run") -> ArtifactRepository:
        if resource != "run":
            raise MlflowException(f"artifacts of a {resource} are not read")
        if resource_id not in self._places:
            self.remember(self.get_run(resource_id))  # type: ignore[no-untyped-call]
        named = self._places[resource_id]
        try:
            root = artifact_root(self.tracking_uri, named)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        if root is None:
            return _ServersFolder(self.tracking_uri, resource_id)
        return get_artifact_repository(root, tracking_uri=self.tracking_uri)

    def remember(self, run: Run) -> None:
        while len(self._places) >= _REMEMBERED:
            del self._places[next(iter(self._places))]
        self._places[run.info.run_id] = str(run.info.artifact_uri or "")

    def list_artifacts(self, run_id: str, path: str | None = None) -> Any:
        return self._get_artifact_repo(run_id).list_artifacts(path)

    def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str:
        return str(self._get_artifact_repo(run_id).download_artifacts(path, dst_path))


class _ServersFolder(ArtifactRepository):
    """Artifacts of a run that a server keeps in a folder of its machine: asked of the server, as its own pages do."""

    def __init__(self, server: str, run_id: str) -> None:
        super().__init__(server)
        self._run_id = run_id

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        path = "/".join(filter(None, (artifact_path, os.path.basename(local_file))))
        self._ask("POST", _UPLOAD, path, data=Path(local_file).read_bytes())

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        for file in sorted(Path(local_dir).rglob("*")):
            if file.is_file():
                inner = file.relative_to(local_dir).parent.as_posix()
                folder = "/".join(part for part in (artifact_path, inner) if part and part != ".")
                self.log_artifact(str(file), folder or None)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        answer = self._ask("GET", _LIST, path)
        found = [
            FileInfo(str(file["path"]), bool(file.get("is_dir")), int(file.get("file_size", 0)))
            for file in answer.json().get("files", [])
        ]
        for file in found:
            if PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts:
                raise MlflowException.invalid_parameter_value(
                    f"the artifact path {file.path!r} leaves its folder"
                )
        return sorted(found, key=lambda file: str(file.path))

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        answer = self._ask("GET", _GET, remote_file_path, stream=True)
        with open(local_path, "wb") as file:
            for chunk in answer.iter_content(chunk_size=_CHUNK):
                file.write(chunk)

    def _ask(self, method: str, endpoint: str, path: str | None, **how: Any) -> Any:
        # each endpoint has its own word for a run
        asked = {"run_id": self._run_id, "run_uuid": self._run_id} | ({"path": path} if path else {})
        server = get_default_host_creds(self.artifact_uri)
        # what the server answers is judged here: MLflow would make a lost connection of a 500
        answer = http_request(server, endpoint, method, params=asked, raise_on_status=False, **how)
        if method == "POST" and answer.status_code == 500:
            raise PermissionError(errno.EACCES, f"the server {self.artifact_uri} has no place for artifacts")
        if answer.status_code != 200 and "error_code" in answer.text:
            raise MlflowException.invalid_parameter_value(str(answer.json().get("message", answer.text)))
        augmented_raise_for_status(answer)
        return answer
