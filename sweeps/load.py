"""Reading a specification: a study that comes with the package, or a YAML file."""

from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from recallfront.models.configs.explain import explain, near_first
from recallfront.sweeps.base import SpecError as SpecError
from recallfront.sweeps.plain_yaml import MOST_BYTES, NotPlain, read_yaml
from recallfront.sweeps.spec import SweepSpec


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
        SpecError: there is neither, it is not YAML, it asks for code to be run, or it is no possible sweep.
    """
    built_in = studies()
    if study_or_file in built_in:
        return parse_spec(built_in[study_or_file], source=study_or_file)
    path = Path(study_or_file)
    try:
        if not path.is_file():
            known = near_first(study_or_file, built_in)
            raise SpecError(f"{study_or_file}: is neither a file nor one of the studies {known}")
        if path.stat().st_size > MOST_BYTES:
            raise SpecError(f"{study_or_file}: is longer than {MOST_BYTES // 1024} KiB")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError(f"{study_or_file}: cannot be read: it must be YAML text in UTF-8") from None
    except OSError as error:
        raise SpecError(f"{study_or_file}: cannot be read: {error.strerror}") from None
    return parse_spec(text, source=study_or_file)


def parse_spec(text: str, *, source: str) -> SweepSpec:
    """Read a specification from YAML text; `source` names it in errors."""
    try:
        raw = read_yaml(text)
    except NotPlain as error:
        message = str(error)
        raise SpecError(f"{source}{', ' if message.startswith('line ') else ': '}{message}") from None
    if not isinstance(raw, dict):
        raise SpecError(
            f"{source}: must be a mapping of keys such as name, task and space, not {type(raw).__name__}"
        )
    try:
        return SweepSpec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(f"{source}: {explain(error, SweepSpec)}") from None
