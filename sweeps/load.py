"""Reading a specification: a study that comes with the package, or a YAML file."""

from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import ValidationError

from recallfront.sweeps.spec import SweepSpec, explain


class SpecError(ValueError):
    """A specification that cannot be run; the message names the file, the key, the value and what is allowed."""


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
    if not path.is_file():
        raise SpecError(f"{study_or_file}: is neither a file nor one of the studies {', '.join(built_in)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{study_or_file}: cannot be read: {error}") from None
    return parse_spec(text, source=study_or_file)


def parse_spec(text: str, *, source: str) -> SweepSpec:
    """Read a specification from YAML text; `source` names it in errors."""
    try:
        raw = yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise SpecError(f"{source}, line {line}: tags that make Python objects are not allowed") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{source}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise SpecError(
            f"{source}: must be a mapping of keys such as name, task and space, not {type(raw).__name__}"
        )
    try:
        return SweepSpec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(f"{source}: {explain(error)}") from None
