"""The JSON schema of a specification, for editors: `python -m recallfront.sweeps.schema > docs/sweep.schema.json`."""

import json
from typing import Any

from pydantic import BaseModel

from recallfront.models.configs import architectures
from recallfront.sweeps.space import TRAINING_PREFIX, Range
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.trial import TrainingConfig

_NOT_KNOBS = ("architecture", "vocab_size")
_EVERY = "knobs of all blocks"


def specification_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a sweep; a block of the space has the knobs of its architecture and no other.

    What only a check across keys finds (heads that do not divide the width) it lets through: loading does not.
    """
    schema = SweepSpec.model_json_schema()
    definitions = schema["$defs"]
    knobs = {name: _knobs(config, definitions) for name, config in architectures().items()}
    first = next(iter(knobs.values()))
    shared = {key: form for key, form in first.items() if all(own.get(key) == form for own in knobs.values())}
    training = {f"{TRAINING_PREFIX}{key}": form for key, form in _knobs(TrainingConfig, definitions).items()}
    definitions[_EVERY] = {"properties": shared | training}
    for name, config in architectures().items():
        own = {key: form for key, form in knobs[name].items() if key not in shared}
        definitions[f"{name} block"] = {
            "type": "object",
            "description": (config.__doc__ or "").strip().split("\n")[0],
            "$ref": f"#/$defs/{_EVERY}",
            "properties": {"architecture": {"const": name}, **own},
            "required": ["architecture"],
            "unevaluatedProperties": False,
        }
    blocks = [{"$ref": f"#/$defs/{name} block"} for name in knobs]
    schema["properties"]["space"] |= {"minItems": 1, "items": {"oneOf": blocks}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _knobs(config: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """Schema of each knob: a value, a list of values, or where it is a number a range."""
    schema = config.model_json_schema()
    definitions.update(schema.get("$defs", {}))
    knobs = {}
    for name, value in schema["properties"].items():
        if name in _NOT_KNOBS:
            continue
        told = {key: value.pop(key) for key in ("description", "default") if key in value}
        del value["title"]
        forms = [value, {"type": "array", "items": value, "minItems": 1}]
        if any(kind in json.dumps(value) for kind in ('"integer"', '"number"')):
            forms.append({"$ref": f"#/$defs/{Range.__name__}"})
        knobs[name] = {**told, "anyOf": forms}
    return knobs


def schema_text() -> str:
    """The schema as the file `docs/sweep.schema.json` has it."""
    return json.dumps(specification_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
