"""Where one process runs a trial, and the JSON that tells another process."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recallfront.platform.home import home_folder, private_folder
from recallfront.platform.home.address import address_behind
from recallfront.platform.metrics import THROUGHPUTS
from recallfront.sweeps.trial import TrialConfig

TRIALS: Final = "trials"
RESULT: Final = "result.json"  # how a trial ended, in its folder
WEIGHTS: Final = "model"  # the folder within a trial's


@dataclass(frozen=True)
class Workplace:
    """Where one process runs a trial: its folders, its device and its place among the trial's ranks."""

    home: Path  # of all outputs; shared by the nodes of a cluster, or a node's own for a home at an address
    data: Path
    data_digest: str
    code_version: str
    device: str = "cpu"
    rank: int = 0
    local_rank: int = 0
    world: int = 1
    remeasure: bool = False  # measure throughput again, whatever the cache holds
    precise: tuple[str, ...] = THROUGHPUTS  # measured as precisely as the protocol says; the others roughly
    energies: tuple[str, ...] = ()  # objectives that not every GPU tells: a trial that lacks one ends
    scratch: str = TRIALS  # folder of the home that trials keep checkpoints, weights and results in
    sweep: str = ""  # key of the one that runs its trials
    # in use: name -> file, or None for a package
    plugins: dict[str, str | None] = field(default_factory=dict)
    # what relative paths of a specification are below: the driver's working directory, as a worker has another one
    directory: Path = field(default_factory=Path.cwd)

    def enter(self) -> None:
        """Make `directory` this process's working directory; another machine may not have it."""
        if self.directory.is_dir():
            os.chdir(self.directory)

    def folder(self, config: TrialConfig) -> Path:
        """The trial's own folder."""
        return self.home / self.scratch / trial_folder(config.key, self.code_version, self.data_digest)

    @property
    def measurements(self) -> Path:
        return self.home / "measurements"


def trial_folder(key: str, code_version: str, data_digest: str) -> str:
    """The name of a trial's folder: results belong to (key, code version, data digest)."""
    return f"{key[:16]}-{code_version}-{data_digest[:8]}"


def workplace_json(place: Workplace) -> dict[str, Any]:
    """A workplace as plain values, for another process; on another node its home is another folder."""
    home = address_behind(place.home) or str(place.home)
    return {
        **vars(place),
        "home": home,
        "data": place.data.relative_to(place.home).as_posix(),
        "directory": str(place.directory),
    }


def read_workplace(raw: dict[str, Any]) -> Workplace:
    """The workplace that `workplace_json` wrote, on this machine."""
    home = home_folder(raw["home"])
    if address_behind(home) is not None:
        private_folder(home)
    paths = {"home": home, "data": home / raw["data"], "directory": Path(raw["directory"])}
    lists = {name: tuple(raw[name]) for name in ("precise", "energies")}
    return Workplace(**{**raw, **paths, **lists})
