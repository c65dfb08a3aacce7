"""Sending a sweep to a Ray cluster as a job, following its log, and joining it again."""

import asyncio
import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from recallfront.platform.errors import UsageError
from recallfront.platform.wheel import build_wheel
from recallfront.sweeps.load import load_spec

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_SPEC_FILE = "sweep.yaml"
_SWEEP_KEY = "recallfront_sweep_key"
_STUDY = "recallfront_study"


def submit(study_or_file: str, *, address: str, tracking_uri: str, home: str) -> str:
    """Send a sweep to the cluster whose dashboard is at `address`; returns the job's id.

    A sweep that runs there already is not sent twice: the id is that of the running job.

    Raises:
        SpecError: the specification is not possible.
        UsageError: the cluster does not answer, or refuses the token.
    """
    spec = load_spec(study_or_file)
    if not tracking_uri.startswith(("http://", "https://")):
        raise UsageError(
            f"tracking URI {tracking_uri!r}: a job needs an MLflow server that the cluster reaches, http(s)://HOST:PORT"
        )
    client = _client(address)
    for job in client.list_jobs():
        if (job.metadata or {}).get(_SWEEP_KEY) == spec.key and not job.status.is_terminal():
            return str(job.submission_id)
    command = ["python", "-m", "recallfront", "run", _SPEC_FILE, "--address", "auto"]
    command += ["--home", home, "--tracking-uri", tracking_uri]
    with tempfile.TemporaryDirectory() as folder:
        working_dir = Path(folder) / "job"
        working_dir.mkdir()
        text = yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True), sort_keys=False)
        (working_dir / _SPEC_FILE).write_text(text)
        return str(
            client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=f"{spec.name}-{spec.key[:8]}-{int(time.time())}",
                runtime_env={
                    "working_dir": str(working_dir),
                    "py_modules": [str(build_wheel(Path(folder)))],
                },
                metadata={_SWEEP_KEY: spec.key, _STUDY: spec.name},
            )
        )


def follow_job(job: str, *, address: str) -> bool:
    """Print a job's log until it ends, and return whether it succeeded; interrupting leaves the job running."""
    client = _client(address)
    _job_details(client, job)

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            print(text, end="", flush=True)

    try:
        asyncio.run(tail())
    except KeyboardInterrupt:
        print(f"\nleft; the job goes on: recallfront status {job} --address {address} --follow")
        return True
    details = _job_details(client, job)
    while not details.status.is_terminal():  # the log may end a moment before the job's own record
        time.sleep(0.5)
        details = _job_details(client, job)
    print(f"job {job}: {details.status.value.lower()}")
    return bool(details.status.value == "SUCCEEDED")


def jobs(address: str, job: str | None = None) -> "list[JobDetails]":
    """The sweeps that were sent to a cluster, or the one named."""
    client = _client(address)
    if job is not None:
        return [_job_details(client, job)]
    return [found for found in client.list_jobs() if _SWEEP_KEY in (found.metadata or {})]


def study_of(job: "JobDetails") -> str:
    return str((job.metadata or {}).get(_STUDY, ""))


def _job_details(client: "JobSubmissionClient", job: str) -> "JobDetails":
    try:
        return client.get_job_info(job)
    except RuntimeError:
        known = ", ".join(str(found.submission_id) for found in client.list_jobs()) or "none"
        raise UsageError(f"job {job!r}: the cluster has no such job; it has {known}") from None


def _client(address: str) -> "JobSubmissionClient":
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise UsageError(f"address {address!r}: must be the cluster's dashboard, such as http://HEAD:8265")
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise UsageError(
            f"address {address!r}: the cluster refuses the token; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file "
            "that holds it, or put it into ~/.ray/auth_token (on the head: `ray get-auth-token`)"
        ) from None
    except (ConnectionError, RuntimeError) as error:
        raise UsageError(
            f"address {address!r}: no Ray dashboard answers there ({' '.join(str(error).split())[:200]})"
        ) from None
