"""The script for Slurm: a Ray cluster of all nodes, each with the cores that it has, and nothing left at the end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SLURM = ROOT / "deploy" / "slurm" / "sweep.sbatch"

STUBS = {
    "scontrol": 'echo "${@: -1}" | tr , "\\n"',
    # since 22.05 a step has the cores that srun asks for, and one by default, whatever the job has
    "srun": """
cores=${SRUN_CPUS_PER_TASK:-1} node=all
while [[ $1 == --* ]]; do
  case $1 in --cpus-per-task=*) cores=${1#*=} ;; --nodelist=*) node=${1#*=} ;; esac
  shift
done
echo "$node: $1" >> "$STEPS"
if [[ $1 == ray && " $* " != *" --num-cpus=$cores "* ]]; then
  echo "srun: $node has $cores cores, not those of $*" >> "$STEPS"
  exit 1
fi
exec "$@"
""",
}


def slurm(tmp_path: Path, stubs: dict[str, str], **given: str) -> dict[str, str]:
    """The environment of a job, with these programs in place of those that are installed."""
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    places = [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        "PATH": os.pathsep.join(places),
        "STEPS": str(tmp_path / "steps"),
        "STUDY": "no-such-study",
        "RECALLFRONT_HOME": str(tmp_path / "home"),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_CPUS_PER_TASK": "2",
        **given,
    }


def test_every_node_of_slurm_has_the_cores_that_ray_is_told_of(tmp_path: Path) -> None:
    sweep = 'until [[ $(wc -l < "$STEPS") -ge 2 ]]; do sleep 0.1; done; exit 3'
    rest = {"ray": "exec sleep 60", "python3": "exit 0", "recallfront": sweep}
    environment = slurm(tmp_path, STUBS | rest, SLURM_JOB_NODELIST="first,second")
    done = subprocess.run(["bash", str(SLURM)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    *steps, last = (tmp_path / "steps").read_text().splitlines()
    assert sorted(steps) == ["first: ray", "second: ray"]
    assert last == "all: rm", "at the end, on every node"


@pytest.mark.slow
def test_the_script_for_slurm_starts_a_cluster_runs_the_sweep_and_tidies_up(tmp_path: Path) -> None:
    """Slurm's two commands are stand-ins for one node; Ray and recallfront are real, and refuse the study."""
    environment = slurm(tmp_path, STUBS, SLURM_JOB_NODELIST="127.0.0.1")
    folder, home = Path(f"/tmp/ray-{environment['SLURM_JOB_ID']}"), tmp_path / "home"
    try:
        done = subprocess.run(
            ["bash", str(SLURM)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240
        )
        assert not folder.exists()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "recallfront: no-such-study: is neither a file nor one of the studies" in done.stderr
    assert "Ray runtime started" in done.stdout
    assert home.stat().st_mode & 0o777 == 0o700 and not list(home.iterdir())
