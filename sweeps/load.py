"""Reading a specification: a study that comes with the package, or a YAML file."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recallfront.models.configs.explain import explain, near_first
from recallfront.sweeps.base import SpecError
from recallfront.sweeps.plain_yaml import MOST_BYTES, NotPlain, read_yaml
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.suite import TASKS, Part, Suite, check_claims, raw_parts


def studies() -> dict[str, str]:
    """Name -> YAML text of every study that comes with the package."""
    folder = files("recallfront.sweeps") / "studies"
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.endswith(".yaml")
    }


def load_spec(study_or_file: str) -> SweepSpec:
    """Read the study of that name, or else the YAML file.

    Raises:
        SpecError: there is neither, it is not YAML, it asks for code to be run, or it is not a possible sweep.
    """
    return parse_spec(read_text(study_or_file), source=study_or_file)


def load_study(study_or_file: str) -> SweepSpec | Suite:
    """As `load_spec`, but it may be a suite of sweeps.

    Raises:
        SpecError: as `load_spec` does.
    """
    text = read_text(study_or_file)
    raw = _mapping(text, study_or_file)
    return _suite(raw, study_or_file) if TASKS in raw else parse_spec(text, source=study_or_file)


def parse_spec(text: str, *, source: str) -> SweepSpec:
    """Read a specification from YAML text; `source` names it in errors."""
    raw = _mapping(text, source)
    if TASKS in raw:
        raise SpecError(f"{source}: has tasks, so it is a suite of sweeps, and one sweep is needed here")
    return _spec(raw, source)


def read_text(study_or_file: str) -> str:
    """The YAML text of the study of that name, or else of the file.

    Raises:
        SpecError: there is neither, or it cannot be read.
    """
    built_in = studies()
    if study_or_file in built_in:
        return built_in[study_or_file]
    path = Path(study_or_file)
    try:
        if not path.is_file():
            known = near_first(study_or_file, built_in)
            raise SpecError(f"{study_or_file or repr('')}: is neither a file nor one of the studies {known}")
        if path.stat().st_size > MOST_BYTES:
            raise SpecError(f"{study_or_file}: is longer than {MOST_BYTES // 1024} KiB")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError(f"{study_or_file}: cannot be read: it must be YAML text in UTF-8") from None
    except OSError as error:
        raise SpecError(f"{study_or_file}: cannot be read: {error.strerror}") from None


def _mapping(text: str, source: str) -> dict[str, Any]:
    try:
        raw = read_yaml(text)
    except NotPlain as error:
        message = str(error)
        raise SpecError(f"{source}{', ' if message.startswith('line ') else ': '}{message}") from None
    if not isinstance(raw, dict):
        raise SpecError(
            f"{source}: must be a mapping of keys such as name, task and space, not {type(raw).__name__}"
        )
    return raw


def _suite(raw: dict[str, Any], source: str) -> Suite:
    try:
        parts = raw_parts(raw)
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None
    sweeps = [Part(task, _spec(own, f"{source}, {own['name']}")) for task, own in parts]
    # what is said of the suite as a whole is checked as a sweep's is
    own = {key: raw[key] for key in ("name", "expected_minutes", "claims") if key in raw}
    whole = _spec(parts[0][1] | {"claims": []} | own, source)
    suite = Suite(
        whole.name, tuple(sweeps), whole.description, whole.question, whole.expected_minutes, whole.claims
    )
    try:
        check_claims(suite.claims, suite.tasks)
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None
    return suite


def _spec(raw: dict[str, Any], source: str) -> SweepSpec:
    try:
        return SweepSpec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(f"{source}: {explain(error, SweepSpec)}") from None
