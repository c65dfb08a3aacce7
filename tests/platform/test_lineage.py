"""Lineage, collected from real checkouts and a real installation, and read back from a real store."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import recallfront
from recallfront.platform.errors import UsageError
from recallfront.platform.lineage.code_version import trial_sources
from recallfront.platform.lineage.comparison import compare_lineage
from recallfront.platform.lineage.environment import Lineage, TrialLineage, collect, packages_text
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.lineage import read_lineage
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.checkouts import ROOT, clean_checkout, git
from tests.platform.stores import ready_store

PROBE = """
import json
from recallfront.platform.lineage.environment import collect
from recallfront.platform.lineage.source import diff_text
print(json.dumps([collect().model_dump(mode="json"), diff_text()]))
"""


def probe(root: Path) -> tuple[Lineage, str | None]:
    """The lineage that a process sees whose recallfront lies in `root`."""
    environment = {"PYTHONPATH": str(root), "PATH": str(Path(shutil.which("git") or "git").parent)}
    command = [sys.executable, "-c", PROBE]
    answer = subprocess.run(command, env=environment, cwd="/", check=True, capture_output=True, text=True)
    lineage, diff = json.loads(answer.stdout)
    return Lineage.model_validate(lineage), diff


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return clean_checkout(tmp_path / "checkout")


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    lineage, diff = probe(checkout)
    assert lineage.git_commit == git(checkout, "rev-parse", "HEAD")
    assert not lineage.git_dirty and diff is None


def test_a_changed_checkout_is_its_commit_and_a_patch(checkout: Path, tmp_path: Path) -> None:
    before, _ = probe(checkout)
    changed, new = checkout / "kernels" / "common" / "backend.py", checkout / "models" / "brand_new.py"
    changed.write_text(changed.read_text() + "# changed\n")
    new.write_text("NEW = 1\n")
    (checkout / "ignored.py").write_text("no\n")
    (checkout / "weights.bin").write_bytes(b"no")
    lineage, diff = probe(checkout)
    assert lineage.git_commit == before.git_commit and lineage.git_dirty
    assert lineage.commit == f"{str(before.git_commit)[:12]} with changes"
    assert lineage.code_version != before.code_version
    assert diff is not None and "weights.bin" not in diff and "ignored.py" not in diff
    assert "brand_new" in git(checkout, "status", "--porcelain")  # the checkout's own index is untouched
    assert not git(checkout, "diff", "--cached")
    # The commit and the patch give the same code again.
    again = tmp_path / "again"
    git(tmp_path, "clone", "-q", str(checkout), str(again))
    (tmp_path / "diff.patch").write_text(diff)
    git(again, "apply", str(tmp_path / "diff.patch"))
    assert probe(again)[0].code_version == lineage.code_version


def test_what_no_trial_runs_is_no_part_of_the_code_version(checkout: Path) -> None:
    before, _ = probe(checkout)
    other = checkout / "platform" / "front" / "front.py"
    other.write_text(other.read_text() + "# changed\n")
    lineage, _ = probe(checkout)
    assert lineage.git_dirty and lineage.code_version == before.code_version


def test_an_installation_has_no_commit_even_in_another_checkout(checkout: Path, tmp_path: Path) -> None:
    site = tmp_path / "project" / "site-packages"
    shutil.copytree(checkout / "recallfront", site / "recallfront")  # follows the links, as a wheel does
    git(tmp_path / "project", "init", "-q")
    lineage, diff = probe(site)
    assert lineage.git_commit is None and not lineage.git_dirty and diff is None
    assert lineage.code_version == probe(checkout)[0].code_version


def test_every_module_of_the_trial_is_accounted_for() -> None:
    """Of kernels, models and sweeps, what the trial's body really loads is hashed."""
    program = (
        "import sys, recallfront.platform.trial.body, recallfront.platform.workers.train_job\n"
        "names = [n for n in sys.modules if n.startswith('recallfront.')]\n"
        "print('\\n'.join(sys.modules[n].__file__ for n in names if sys.modules[n].__file__))"
    )
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {Path(line).resolve().relative_to(ROOT).as_posix() for line in answer.stdout.splitlines()}
    hashed = trial_sources(Path(recallfront.__file__).parent)
    figures = {n for n in loaded if n.startswith(("kernels/", "models/", "sweeps/", "platform/trial/"))}
    assert figures and not figures - hashed.keys()
    assert "platform/workers/train_job.py" in hashed
    # loaded when first used, so no import of the body shows them
    assert {"kernels/linear_scan/triton_backward.py", "models/pretrained/lora.py"} <= hashed.keys()


RUN = {
    "platform/trial/training.py",
    "platform/workers/train_job.py",
    "models/mixers/attention.py",
    "kernels/rg_lru/triton_forward.py",
    "sweeps/tasks/mqar.py",
    "kernels/grouped_attention/__init__.py",
}
NOT_RUN = {
    "benchmarks/kernels/timing.py",
    "benchmarks/platform/overhead.py",
    "dashboards/views.py",
    "dashboards/pages/sweep.html",
    "kernels/gpu/report.py",
    "models/configs/presets.py",
    "platform/front/front.py",
    "platform/sweep/recorder.py",
    "sweeps/claims.py",
    "sweeps/load.py",
    "sweeps/schema.py",
    "sweeps/search.py",
    "sweeps/spec.py",
    "sweeps/studies/quickstart.yaml",
}


def test_the_code_version_changes_with_what_a_trial_runs_and_with_nothing_else(checkout: Path) -> None:
    def touched(names: set[str]) -> dict[str, bytes]:
        for name in names:
            (checkout / name).write_text((checkout / name).read_text() + "\n# touched\n")
        return trial_sources(checkout / "recallfront")

    before = trial_sources(checkout / "recallfront")
    assert touched(NOT_RUN) == before
    after = touched(RUN)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == RUN


@pytest.mark.alone
def test_collecting_is_quick_and_complete() -> None:
    collect()  # what it imports is a process's first, not its own
    start = time.process_time()
    lineage = collect()
    seconds = time.process_time() - start
    print(f"collect {seconds:.2f} s of the processor")
    assert seconds < 2
    assert lineage.recallfront == recallfront.__version__ and lineage.libraries["torch"]
    assert lineage.hardware.cores >= 1 and lineage.hardware.memory_bytes > 2**28 and lineage.hardware.cpu
    lines = packages_text().splitlines()
    assert f"mlflow=={lineage.libraries['mlflow']}" in lines and lines == sorted(
        lines, key=lambda line: line.split("==")[0]
    )
    assert Lineage.model_validate_json(lineage.model_dump_json()) == lineage


def changed(lineage: Lineage, **values: Any) -> Lineage:
    return lineage.model_copy(update=values)


def test_differences_are_told_in_words_what_matters_first() -> None:
    a = collect()
    assert compare_lineage(a, a) == ()
    b = changed(
        a,
        code_version="0" * 16,
        python="3.99.0",
        libraries=a.libraries | {"torch": "0.1", "ray": None},
        environment=a.environment | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "3"},
        hardware=a.hardware.model_copy(update={"gpus": ("NVIDIA H100", "NVIDIA H100")}),
    )
    found = compare_lineage(a, b)
    texts = [str(difference) for difference in found]
    assert f"torch {a.libraries['torch']} -> 0.1" in texts
    assert f"code_version {a.code_version} -> {'0' * 16}" in texts
    assert f"ray {a.libraries['ray']} -> none" in texts
    assert "TRITON_INTERPRET none -> 1" in texts
    assert "GPUs none -> NVIDIA H100, NVIDIA H100" in texts
    matters = [difference.matters for difference in found]
    assert matters == sorted(matters, reverse=True)
    harmless = {difference.text.split()[0] for difference in found if not difference.matters}
    assert harmless == {"python", "ray", "CUDA_VISIBLE_DEVICES"}
    (other,) = compare_lineage(a, changed(a, packages_digest="other"))
    assert "packages differ" in other.text and not other.matters


def trial_lineage(**values: Any) -> TrialLineage:
    config = {"model": {"width": 64}, "seed": 1}
    own = {"trial_key": "ab" * 32, "config": config, "data_digest": "d", "seeds": {"data": 1}}
    return TrialLineage.model_validate({"environment": collect(), **own, **values})


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own
def test_lineage_is_read_back_from_a_run(tmp_path: Path) -> None:
    uri = ready_store(tmp_path)
    written = trial_lineage(sweep_key="k", sampler_trial=3)
    texts = {"good": written.model_dump_json(), "bad": '{"trial_key": 3}', "none": None}
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        for run, text in texts.items():
            writer.open_run(run, experiment="study", name=run)
            if text is not None:
                writer.text(run, text, "lineage/lineage.json")
        assert writer.flush(60)
        ids = {run: writer.run_id(run) or "" for run in texts}
    assert read_lineage(uri, ids["good"]) == written
    with pytest.raises(UsageError, match="cannot be read: environment: Field required"):
        read_lineage(uri, ids["bad"])
    with pytest.raises(UsageError, match="has no lineage"):
        read_lineage(uri, ids["none"])
    (tmp_path / "lineage.json").write_bytes(b"\xff")
    open_client(uri).log_artifact(ids["bad"], str(tmp_path / "lineage.json"), "lineage")
    with pytest.raises(UsageError, match="its artifact lineage/lineage.json is not text"):
        read_lineage(uri, ids["bad"])
    with pytest.raises(UsageError, match="has no run"):
        read_lineage(uri, "0" * 32)
