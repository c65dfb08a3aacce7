"""The image and the manifests of deploy/: well-formed, in step with each other, and their commands can be run.

The image is that of Dockerfile and .dockerignore.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import jsonschema
import kubernetes_validate
import pytest
import typer.main
import yaml
from pydantic import BaseModel, ConfigDict, Field

from recallfront.cli import app
from recallfront.platform.sweep.gauges import GAUGES
from recallfront.platform.trial.quiet import Device
from tests.image import DOCKERFILE, IGNORED, ROOT, instructions

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SLURM = DEPLOY / "slurm" / "sweep.sbatch"
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
SECRET = re.compile(r"(PASSWORD|TOKEN|SECRET|KEY)$")


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((DEPLOY / "kuberay").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name}, {document['kind']} {document['metadata']['name']}", document


MANIFESTS = dict(documents())


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Named(Strict):
    name: str


class Pod(Strict):
    """A pod's template; its content is Kubernetes' own, which kubernetes-validate knows."""

    spec: dict[str, Any]
    metadata: dict[str, Any] = {}


class Head(Strict):
    rayStartParams: dict[str, str]
    template: Pod


class Workers(Head):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int


class Auth(Strict):
    mode: Literal["token", "disabled"]


class RayClusterSpec(Strict):
    """The fields of ray.io/v1 that we use, as KubeRay's definition of the resource has them."""

    rayVersion: str
    authOptions: Auth
    enableInTreeAutoscaling: bool = False
    headGroupSpec: Head
    workerGroupSpecs: list[Workers]


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Named
    spec: RayClusterSpec


class RayJobSpec(Strict):
    entrypoint: str
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int = Field(ge=0)
    rayClusterSpec: RayClusterSpec


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Named
    spec: RayJobSpec


RAY: dict[str, type[BaseModel]] = {"RayCluster": RayCluster, "RayJob": RayJob}
KUBERAY = os.environ.get("RECALLFRONT_KUBERAY", "")  # a checkout of ray-project/kuberay


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def test_linters_find_nothing() -> None:
    for command in ([tool("hadolint"), "Dockerfile"], [tool("shellcheck"), str(SLURM)]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_has_the_sources_and_nothing_else_of_the_checkout() -> None:
    copied = {part for line in instructions("COPY") if "--from" not in line for part in line.split()[:-1]}
    assert IGNORED[0] == "*" and {line[1:] for line in IGNORED if line.startswith("!")} == copied
    links = {path.name for path in (ROOT / "recallfront").iterdir() if path.is_symlink()}
    assert links | {"recallfront", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == copied
    assert all((ROOT / name).exists() for name in copied)
    kept_out = [line for line in IGNORED if line.startswith("**/")]
    for name in ("platform/.env", "models/.env.local", "sweeps/a.pem", "recallfront/__pycache__"):
        assert any(fnmatch.fnmatch(name, line) for line in kept_out), name


def test_the_image_for_gpus_has_the_compiler_that_triton_needs() -> None:
    stage = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    assert "ARG VARIANT=cuda" in stage
    assert re.search(r'if \[ "\$VARIANT" = cuda \]; then apt-get install [^;]*\bgcc libc6-dev;', stage)


@pytest.mark.parametrize(("variant", "extras"), [("cuda", "postgres,s3,gpu"), ("cpu", "postgres,s3")])
def test_the_image_for_gpus_alone_has_the_extra_of_a_gpu(variant: str, extras: str, tmp_path: Path) -> None:
    (run,) = [line for line in instructions("RUN") if "recallfront --version" in line]
    for name in ("pip", "recallfront"):  # each says what it is asked for
        (tmp_path / name).write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / name).chmod(0o755)
    variables = {"VARIANT": variant, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", run], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == f"install --constraint constraints.txt .[{extras}]\n--version\n"


def test_the_image_is_not_root_s_and_names_no_host() -> None:
    assert instructions("USER") == ["1000:1000"]
    assert DOCKERFILE.index("USER 1000") > DOCKERFILE.rindex("FROM ")
    assert "://" not in DOCKERFILE and all("constraints.txt" in line for line in installs())
    images = [service["image"] for service in COMPOSE["services"].values()]
    images += [c["image"] for _, pod in pods() for c in pod["containers"]]
    assert {image.partition(":")[0] for image in images} == {"recallfront", "postgres"}


def installs() -> list[str]:
    found = re.findall(r"pip install [^&;]*", " ".join(instructions("RUN")))
    assert len(found) == 4
    return found


def test_an_unknown_variant_is_refused_before_anything_is_installed() -> None:
    run = next(line for line in instructions("RUN") if "VARIANT" in line)
    done = subprocess.run(
        ["sh", "-c", run], cwd=ROOT, env={"VARIANT": "tpu", "PATH": "/usr/bin:/bin"}, capture_output=True
    )
    assert done.returncode == 1 and b"VARIANT is cuda or cpu, not tpu" in done.stderr


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that the manifests describe."""
    for name, document in MANIFESTS.items():
        spec = document["spec"]
        cluster = spec.get("rayClusterSpec", spec)
        templates = [cluster.get("headGroupSpec"), *cluster.get("workerGroupSpecs", [])]
        for holder in [part for part in templates if part] or [spec]:
            if "template" in holder:
                yield name, holder["template"]["spec"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_of_their_kind(name: str) -> None:
    document = MANIFESTS[name]
    if kind := RAY.get(document["kind"]):
        kind.model_validate(document)
    else:
        assert document["kind"] in ("Service", "Deployment", "StatefulSet", "PersistentVolumeClaim")
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}


def strict(schema: Any) -> Any:
    """A definition of a custom resource as a JSON schema that knows no other fields, as the server prunes them."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made["type"] = ["integer", "string"]
    if made.get("type") == "object" and "properties" in made and made["properties"].keys() != {"metadata"}:
        made.setdefault("additionalProperties", made.get("x-kubernetes-preserve-unknown-fields", False))
    return made


@pytest.mark.skipif(not KUBERAY, reason="RECALLFRONT_KUBERAY names no checkout of kuberay")
@pytest.mark.parametrize("name", [name for name, document in MANIFESTS.items() if document["kind"] in RAY])
def test_manifests_are_as_kuberay_defines_them(name: str) -> None:
    document = MANIFESTS[name]
    folder = Path(KUBERAY) / "ray-operator" / "config" / "crd" / "bases"
    resource = yaml.safe_load((folder / f"ray.io_{document['kind'].lower()}s.yaml").read_text())
    (version,) = [v for v in resource["spec"]["versions"] if v["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    # of Kubernetes' own kind
    schema["properties"]["metadata"] = {"type": "object"}
    check = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in check.iter_errors(document)] == []
    wrong = json.loads(json.dumps(document).replace("headGroupSpec", "headGroup"))
    assert any("headGroup" in error.message for error in check.iter_errors(wrong))


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_as_kubernetes_describes_them(name: str) -> None:
    document = MANIFESTS[name]
    if document["kind"] not in RAY:
        kubernetes_validate.validate(document, "1.34", strict=True)
    for owner, pod in pods():
        if owner == name:
            bare = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
            kubernetes_validate.validate(bare, "1.34", strict=True)


def test_manifests_name_what_there_is() -> None:
    claims = {d["metadata"]["name"] for d in MANIFESTS.values() if d["kind"] == "PersistentVolumeClaim"}
    services = {d["metadata"]["name"] for d in MANIFESTS.values() if d["kind"] == "Service"}
    assert services == {"mlflow", "mlflow-postgres"}
    for name, pod in pods():
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounted = [volume.get("persistentVolumeClaim") for volume in pod.get("volumes", [])]
        asked = [claim["claimName"] for claim in mounted if claim]
        assert set(asked) <= claims, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        for container in pod["containers"]:
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts <= volumes | {"data"}, name
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
    for document in MANIFESTS.values():
        spec = document["spec"].get("rayClusterSpec", document["spec"])
        assert spec.get("rayVersion", PINS["ray"]) == PINS["ray"]
    used = {volume.partition(":")[0] for s in COMPOSE["services"].values() for volume in s.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])
    waited = {name for s in COMPOSE["services"].values() for name in s.get("depends_on", [])}
    assert waited <= set(COMPOSE["services"])


def test_only_the_worker_offers_what_the_machine_has() -> None:
    head, worker = COMPOSE["services"]["head"], COMPOSE["services"]["worker"]
    assert {"--num-cpus=0", "--num-gpus=0"} <= set(head["command"])
    assert not [word for word in worker["command"] if word.startswith("--num-")]
    gpu = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
    (device,) = gpu["services"].pop("worker")["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert gpu == {"services": {}}


def test_containers_of_a_machine_share_the_locks_of_its_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: int(instructions("USER")[0].partition(":")[0]))
    Device("cpu").close()
    (folder,) = tmp_path.iterdir()
    for name in ("head", "worker"):
        assert f"quiet:/tmp/{folder.name}" in COMPOSE["services"][name]["volumes"]
    (users,) = [line for line in instructions("RUN") if "useradd" in line]
    assert f"--owner recallfront --group recallfront --mode 700 /tmp/{folder.name}" in users


def test_secrets_are_references() -> None:
    variables = [v for _, pod in pods() for c in pod["containers"] for v in c.get("env", [])]
    secret = [variable for variable in variables if SECRET.search(variable["name"])]
    assert len(secret) == 2 and all("secretKeyRef" in variable["valueFrom"] for variable in secret)
    given = [pair for s in COMPOSE["services"].values() for pair in s.get("environment", {}).items()]
    secret = [value for name, value in given if SECRET.search(name)]
    assert len(secret) == 4 and all(re.fullmatch(r"\$\{[A-Z_]+:\?is in deploy/\.env\}", v) for v in secret)
    texts = [path.read_text() for path in DEPLOY.rglob("*") if path.is_file()]
    assert not [text for text in texts if re.search(r"://[^\s/@]+:[^\s/@]+@", text)]


def test_the_dashboard_shows_every_metric_of_a_sweep_and_no_other() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "sweeps.json").read_text())
    panels = dashboard["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    named = re.findall(r"\bray_(\w+)\{", " ".join(queries))
    assert sorted(named) == sorted(GAUGES)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["sweep"]["query"]["query"] == "label_values(ray_recallfront_trials, sweep)"
    assert {name for query in queries for name in re.findall(r"\$(\w+)", query)} == {"sweep"}
    assert len({panel["id"] for panel in panels}) == len(panels)
    documented = re.findall(r"^\| `ray_(\w+)`", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(GAUGES)


def commands() -> list[list[str]]:
    """Every command of the image and the manifests, as words."""
    found = [service["command"] for service in COMPOSE["services"].values() if "command" in service]
    found += [c["command"] for _, pod in pods() for c in pod["containers"] if "command" in c]
    found += [shlex.split(d["spec"]["entrypoint"]) for d in MANIFESTS.values() if d["kind"] == "RayJob"]
    script = re.sub(r" *\\\n\s*", " ", SLURM.read_text())
    script = re.sub(r"\$\{?\w+\}?", "1", script.replace('"$head:$port"', "10.0.0.1:6379"))
    for line in re.findall(r"\b(?:ray start|recallfront run) [^&\n]*&", script):
        found.append(shlex.split(line.rstrip("&")))
    return found


def test_commands_can_be_typed() -> None:
    groups = {"recallfront": typer.main.get_command(app), "ray": import_module("ray.scripts.scripts").cli}
    typed = []
    for program, name, *arguments in commands():
        if program != "mlflow":  # tests/test_deployed.py runs it
            typed.append((program, name))
            groups[program].commands[name].make_context(name, arguments)
    assert sorted(typed) == [("ray", "start")] * 4 + [("recallfront", "run")] * 2
