"""Submits a sweep to a Ray cluster as a job, follows its log, and joins it again.

Ray's job client is imported where it is first used, so that the command starts fast.
"""

import asyncio
import logging
import shlex
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from recallfront.platform.cluster.tokens import HOW_TO_GIVE_A_TOKEN, find_token
from recallfront.platform.cluster.wheel import build_wheel
from recallfront.platform.errors import (
    UsageError,
    one_line,
    printable_lines,
    refuse_credentials,
    refuse_secrets,
    root_cause,
    secret_in,
)
from recallfront.platform.home import USER_VARIABLE, user_name
from recallfront.platform.home.address import address_of
from recallfront.platform.plugins import load, sources_in_use, use, used_by
from recallfront.platform.tracking.store import refuse_password
from recallfront.sweeps.load import parse_spec, read_text
from recallfront.sweeps.spec import SweepSpec

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_SPEC_FILE = "sweep.yaml"
_SWEEP_KEY = "recallfront_sweep_key"
_STUDY = "recallfront_study"
_STORE = "recallfront_tracking_uri"
_END_SECONDS = 15.0  # for a job whose sweep has ended to end, too
_ANSWER_SECONDS = 5.0  # for a dashboard to say that it is one; Ray's own client would wait for ever


def submit(
    study_or_file: str, *, address: str, tracking_uri: str, home: str, plugins: Iterable[Path | str] = ()
) -> tuple[str, bool]:
    """Submit a sweep to the cluster whose dashboard is at `address`; returns the job's id, and whether it is new.

    A sweep that runs there already is not sent twice: the id is that of the running job. The files among `plugins` that
    the sweep uses go along; a package that it uses must be installed on the cluster.

    Raises:
        SpecError: the specification is not possible.
        UsageError: the cluster does not answer, or refuses the token; its nodes could not find the outputs; or the
            sweep runs there already with another home or store.
    """
    load(plugins)
    text = read_text(study_or_file)
    spec = parse_spec(text, source=study_or_file)
    use(used_by(spec.model_dump(mode="json")))
    refuse_secrets(f"sweep {spec.name}: the specification", text)
    refuse_password(tracking_uri)
    _refuse_relative(spec)
    sources = sources_in_use()
    entrypoint = _entrypoint(home, tracking_uri, sources)
    client = _client(address)
    for job in client.list_jobs():
        if (job.metadata or {}).get(_SWEEP_KEY) == spec.key and not job.status.is_terminal():
            if job.entrypoint != entrypoint:
                raise UsageError(
                    f"sweep {spec.name} is already running there as {job.submission_id}, with another --home or "
                    f"--tracking-uri ({job.entrypoint}): use the same ones, or stop that job first"
                )
            return str(job.submission_id), False
    with tempfile.TemporaryDirectory() as folder:
        working_dir = Path(folder) / "job"
        working_dir.mkdir()
        (working_dir / _SPEC_FILE).write_text(text, encoding="utf-8")
        for name, source in sources.items():
            (working_dir / name).write_text(source, encoding="utf-8")
        job_id = client.submit_job(
            entrypoint=entrypoint,
            submission_id=f"{spec.name}-{spec.key[:8]}-{int(time.time())}",
            runtime_env={
                "working_dir": str(working_dir),
                "py_modules": [str(build_wheel(Path(folder)))],
                # the job runs as the cluster's account
                "env_vars": {USER_VARIABLE: user} if (user := user_name()) else {},
            },
            metadata={_SWEEP_KEY: spec.key, _STUDY: spec.name, _STORE: tracking_uri},
        )
        return str(job_id), True


def _refuse_relative(spec: SweepSpec) -> None:
    """Refuse paths below this working directory, which a job does not have.

    Raises:
        UsageError: the first one.
    """
    paths = [(f"task.{key}", value) for key, value in spec.task.paths()]
    if spec.start is not None:
        paths.append(("start.folder", spec.start.folder))
    for key, value in paths:
        if not Path(value).is_absolute():
            raise UsageError(
                f"{key}={value!r}: a job runs in a folder of its own: give an absolute path that all nodes of the "
                "cluster see"
            )


def follow_job(job: str, *, address: str) -> bool:
    """Print a job's log until it ends, and return whether it succeeded; interrupting leaves the job running."""
    client = _client(address)
    _job_details(client, job)

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            # a progress bar returns to the start of its line
            lines = text.replace("\r\n", "\n").replace("\r", "\n")
            print(printable_lines(lines), end="", flush=True)

    again = f"recallfront status {job} --address {address} --follow"
    try:
        asyncio.run(tail())
        details = _job_details(client, job)
        while not details.status.is_terminal():  # the log may end a moment before the job's own record
            time.sleep(0.5)
            details = _job_details(client, job)
    except KeyboardInterrupt:
        print(f"\nleft the log; the job continues: {again}")
        return True
    except (OSError, RuntimeError) as error:  # what aiohttp and Ray raise when the head goes away
        reason = one_line(error, 200)
        raise UsageError(f"address {address!r}: connection lost ({reason}); try {again}") from None
    print(f"job {job}: {details.status.value.lower()}")
    return bool(details.status.value == "SUCCEEDED")


def jobs(address: str, job: str | None = None) -> "list[JobDetails]":
    """The sweeps that were sent to a cluster, or the one named."""
    client = _client(address)
    if job is not None:
        return [_job_details(client, job)]
    return [found for found in client.list_jobs() if _SWEEP_KEY in (found.metadata or {})]


def job_of_sweep(address: str, job: str) -> tuple[str, str]:
    """The key of the sweep that a job runs, and the tracking URI that it uses.

    Raises:
        UsageError: there is no such job, or it has ended, or it runs no sweep of a present version.
    """
    found = _job_details(_client(address), job)
    metadata = found.metadata or {}
    if found.status.is_terminal():
        raise UsageError(f"job {job} does not run: it is {found.status.value.lower()}")
    if _SWEEP_KEY not in metadata or _STORE not in metadata:
        raise UsageError(f"job {job} runs no sweep that this version has submitted: use `ray job stop`")
    return metadata[_SWEEP_KEY], metadata[_STORE]


def end_job(address: str, job: str, *, at_once: bool = False) -> None:
    """Wait until a job has ended; if that takes too long, or `at_once`, Ray stops it."""
    client = _client(address)
    deadline = time.monotonic() + (0 if at_once else _END_SECONDS)
    while not _job_details(client, job).status.is_terminal():
        if time.monotonic() > deadline:
            client.stop_job(job)
            deadline = float("inf")
        time.sleep(0.5)


def study_of(job: "JobDetails") -> str:
    """The name of the study that a job runs."""
    return str((job.metadata or {}).get(_STUDY, ""))


def _job_details(client: "JobSubmissionClient", job: str) -> "JobDetails":
    try:
        return client.get_job_info(job)
    except RuntimeError:
        known = ", ".join(str(found.submission_id) for found in client.list_jobs()) or "none"
        raise UsageError(f"job {job!r}: the cluster has no such job; its jobs are {known}") from None


def _entrypoint(home: str, tracking_uri: str, plugins: Iterable[str] = ()) -> str:
    """The job's shell command.

    Raises:
        UsageError: the cluster could not reach what it names, or it holds a secret, which Ray would keep and show.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        raise UsageError(
            f"tracking URI {tracking_uri!r}: a job needs an MLflow server that the cluster can reach, http(s)://HOST:PORT"
        )
    if (address := address_of(home)) is None and not home.startswith(("/", "~/")):
        raise UsageError(
            f"home {home!r}: must be an absolute path that all nodes share, start with ~/ (the cluster's user's) or be "
            "an address as s3://BUCKET/FOLDER: the folder of a job is deleted when it ends, and each node has its own"
        )
    folder = f'"$HOME"/{shlex.quote(home[2:])}' if home.startswith("~/") else shlex.quote(address or home)
    given = "".join(f" --plugin {shlex.quote(name)}" for name in plugins)
    command = (
        f"python -m recallfront run {_SPEC_FILE} --address auto --home {folder} "
        f"--tracking-uri {shlex.quote(tracking_uri)}{given}"
    )
    if (held := secret_in(command)) is not None:
        raise UsageError(
            f"the job's command holds {held}, and Ray shows it to everyone who sees the cluster's jobs: take it out, "
            "and set it in the environment of the nodes"
        )
    return command


def _client(address: str) -> "JobSubmissionClient":
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"address {address!r}: must be the cluster's dashboard, such as http://HEAD:8265")
    refuse_credentials("address", address, HOW_TO_GIVE_A_TOKEN)
    token, source = find_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    _check_dashboard(address, headers, source)
    from ray.job_submission import JobSubmissionClient

    for name in (
        "dashboard.modules.dashboard_sdk",
        "dashboard.modules.job.sdk",
        "_private.runtime_env.packaging",
    ):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)  # they log every upload and socket
    return JobSubmissionClient(address, headers=headers)


def _check_dashboard(address: str, headers: dict[str, str], token_source: str) -> None:
    """Raise UsageError unless a Ray dashboard answers, soon, and takes the token."""
    import requests

    try:
        answer = requests.get(f"{address.rstrip('/')}/api/version", headers=headers, timeout=_ANSWER_SECONDS)
    except (requests.RequestException, ValueError) as error:
        reason = "no answer" if isinstance(error, requests.Timeout) else root_cause(error)
        raise UsageError(
            f"address {address!r}: no Ray dashboard answers there ({reason}); by default it is port 8265 of the head"
        ) from None
    if answer.status_code in (401, 403):
        found = (
            f"refuses the token of {token_source}"
            if headers
            else "asks for a token, and this machine has none"
        )
        raise UsageError(f"address {address!r}: the cluster {found}; {HOW_TO_GIVE_A_TOKEN}")
    if not answer.ok or "ray_version" not in answer.text:
        raise UsageError(
            f"address {address!r}: what answers there is not a Ray dashboard (HTTP {answer.status_code})"
        )
