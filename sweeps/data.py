"""A task's data on disk: a Hugging Face dataset a split, built once, known by the digest of its content.

`datasets` is imported where it is first used, so that the command starts fast.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from recallfront.sweeps.base import SpecError, canonical_json, file_digest, seal, text_digest, unseal
from recallfront.sweeps.tasks.base import IGNORED, SPLITS, Segment, Split, StoredTask, Task, TaskData
from recallfront.sweeps.tasks.registry import parse_task

if TYPE_CHECKING:
    from datasets import Dataset

_MANIFEST = "manifest.json"


def prepare(task: Task, folder: Path) -> tuple[Path, str]:
    """Build the task's dataset below `folder` unless it is there, and return (its path, its content digest).

    Safe to call from several processes at once; a build that was interrupted leaves nothing behind that is used.

    Raises:
        SpecError: no such rows can be made; says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = data_folder(task, folder)
    with FileLock(f"{path}.lock"):
        try:
            manifest = _read_manifest(path)
        except (OSError, ValueError):  # none yet, or a damaged one
            _build_or_say(task, path)
            manifest = _read_manifest(path)
    return path, str(manifest["digest"])


def _build_or_say(task: Task, path: Path) -> None:
    """Build the rows; if the settings leave none to draw, that is the user's to hear."""
    try:
        _build(task, path)
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError(f"task {task.name}: {error}") from error


def data_folder(task: Task, folder: Path) -> Path:
    """Where `prepare` builds the task's dataset below `folder`."""
    state = f"-{task.fingerprint()[:8]}" if isinstance(task, StoredTask) else ""
    return folder / f"{data_name(task)}{state}"


def data_name(task: Task) -> str:
    """How the names of the folders of a task's datasets begin, whatever the state of its sources."""
    return f"{task.name}-{text_digest(canonical_json(task))[:16]}"


def digest_of(path: Path) -> str | None:
    """The content digest of a dataset that `prepare` built, as its manifest says; None if there is none."""
    try:
        return str(_read_manifest(path)["digest"])
    except (OSError, ValueError):
        return None


def load_or_rebuild(task: Task, path: Path, expected_digest: str) -> tuple[TaskData, str | None]:
    """Read a dataset that `prepare` built; a damaged one is built again, and the sentence says so.

    Raises:
        ValueError: the digest of what is built now is another one, too.
    """
    try:
        return load(path, expected_digest), None
    except Exception as error:  # readers of damaged files raise whatever they like
        damage = " ".join(str(error).split())[:200]
    with FileLock(f"{path}.lock"):
        try:
            data = load(path, expected_digest)  # another process may have been first
        except Exception:
            _build(task, path)
            data = load(path, expected_digest)
    return data, f"damaged data were built again ({path.name}: {damage})"


@lru_cache(maxsize=4)  # trials that run one after the other in a process share the tensors
def load(path: Path, expected_digest: str) -> TaskData:
    """Read a dataset that `prepare` built.

    Raises:
        ValueError: its content is not what the digest says.
    """
    from datasets import load_from_disk

    manifest = _read_manifest(path)
    if manifest.get("is_stored"):
        data: TaskData = parse_task(manifest["task"]).read(path)
        _check(path, data.digest, expected_digest)
        return data
    # before Arrow reads them: a damaged table may end its process. Data of an earlier version have no such digests.
    for name, expected in manifest.get("tables", {}).items():
        if file_digest(path / name) != expected:
            raise ValueError(f"data at {path.name}: {name} does not match its digest")
    splits: dict[Split, list[Segment]] = {}
    for split in SPLITS:
        dataset = load_from_disk(str(path / split))
        splits[split] = [
            Segment(name, *_segment_tensors(dataset, start, stop))
            for name, start, stop in manifest["segments"][split]
        ]
    found = content_digest(splits)
    _check(path, found, expected_digest)
    return TaskData(digest=found, splits=splits)


def _read_manifest(path: Path) -> dict[str, Any]:
    return unseal((path / _MANIFEST).read_bytes())


def questions(task: Task, path: Path, data_digest: str, split: Split, *, over: str = "positions") -> int:
    """What `recall` of a split is a share of: labelled positions, or rows that have some where it is over `answers`."""
    if over != "answers" and not isinstance(task, StoredTask):
        return task.questions(split)
    data = load(path, data_digest)
    if isinstance(task, StoredTask):
        masks = task.asked_of(data, split)
    else:
        masks = (segment.labels[:] != IGNORED for segment in data.splits[split])
    return sum(int((mask.any(1) if over == "answers" else mask).sum()) for mask in masks)


def _check(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ValueError(f"data at {path.name}: content digest {found[:16]}, expected {expected[:16]}")


def content_digest(splits: Mapping[Split, Sequence[Segment]]) -> str:
    """sha256 over names, shapes and little-endian bytes of every segment of every split."""
    parts = []
    for split in SPLITS:
        for name, *sources in splits[split]:
            inputs, labels = (source[:] for source in sources)
            parts.append(f"{split} {name} {tuple(inputs.shape)}".encode())
            parts.extend(np.ascontiguousarray(t.numpy(), dtype="<i8").tobytes() for t in (inputs, labels))
    return text_digest(b"\0".join(parts))


def _build(task: Task, path: Path) -> None:
    for left in path.parent.glob(f"{path.name}.*/"):  # of builds that were killed: this one holds the lock
        shutil.rmtree(left)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{path.name}."))
    try:
        if isinstance(task, StoredTask):
            told: dict[str, object] = {"digest": task.store(temporary), "is_stored": True}
        else:
            told = _save_rows(task, temporary)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    (temporary / _MANIFEST).write_text(seal(told | {"task": task.model_dump(mode="json")}))
    if path.exists():
        shutil.rmtree(path)  # a damaged one
    temporary.rename(path)


def _save_rows(task: Task, folder: Path) -> dict[str, object]:
    """Every split as a Hugging Face dataset -> its digest, where its segments are, and the digests of its tables."""
    from datasets import Dataset, Features, List, Value, disable_progress_bars, enable_progress_bars

    splits = {split: task.build(split) for split in SPLITS}
    features = Features(
        {"inputs": List(Value("int64")), "labels": List(Value("int64")), "slice": Value("string")}
    )
    segments: dict[str, list[tuple[str, int, int]]] = {}
    disable_progress_bars()
    try:
        for split, parts in splits.items():
            rows: dict[str, list[object]] = {"inputs": [], "labels": [], "slice": []}
            segments[split] = []
            for name, inputs, labels in parts:
                start = len(rows["inputs"])
                rows["inputs"].extend(inputs[:].numpy())
                rows["labels"].extend(labels[:].numpy())
                rows["slice"].extend([name] * len(inputs))
                segments[split].append((name, start, start + len(inputs)))
            Dataset.from_dict(rows, features=features).save_to_disk(str(folder / split))
    finally:
        enable_progress_bars()
    tables = {str(file.relative_to(folder)): file_digest(file) for file in sorted(folder.rglob("*.arrow"))}
    return {"digest": content_digest(splits), "segments": segments, "tables": tables}


def _segment_tensors(dataset: "Dataset", start: int, stop: int) -> tuple[Tensor, Tensor]:
    rows = dataset.select(range(start, stop)).with_format("numpy")[:]
    return torch.from_numpy(np.stack(rows["inputs"])), torch.from_numpy(np.stack(rows["labels"]))
