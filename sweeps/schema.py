"""The JSON schema of a specification, for editors: `python -m recallfront.sweeps.schema > docs/sweep.schema.json`."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from recallfront.models.configs import architectures
from recallfront.models.configs.hybrid import HybridConfig
from recallfront.models.mixers import registry
from recallfront.sweeps.space import NOT_KNOBS, TRAINING_PREFIX, Range
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.suite import TASKS
from recallfront.sweeps.trial import TrainingConfig

_EVERY = "knobs of all blocks"
_RANGE = {"$ref": f"#/$defs/{Range.__name__}"}


def specification_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a sweep; a block of the space has the knobs of its architecture and no other.

    What only a check across keys finds (heads that do not divide the width) it lets through: loading does not.
    """
    schema = SweepSpec.model_json_schema()
    definitions = schema["$defs"]
    knobs = {
        name: _knobs(config, definitions, config.model_fields.keys() - NOT_KNOBS)
        for name, config in architectures().items()
    }
    first = next(iter(knobs.values()))
    shared = {key: form for key, form in first.items() if all(own.get(key) == form for own in knobs.values())}
    trained = _knobs(TrainingConfig, definitions, TrainingConfig.model_fields)
    training = {f"{TRAINING_PREFIX}{key}": form for key, form in trained.items()}
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
    block = definitions[f"{HybridConfig.model_fields['architecture'].default} block"]
    mixers = _mixers(definitions)
    block["properties"] |= mixers["properties"]
    block["patternProperties"] = mixers["patternProperties"]
    blocks = [{"$ref": f"#/$defs/{name} block"} for name in knobs]
    schema["properties"]["space"] |= {"minItems": 1, "items": {"oneOf": blocks}}
    _say_what_names_are(schema)
    _let_be_a_suite(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _say_what_names_are(schema: dict[str, Any]) -> None:
    """Give the name of each task, which every task declares anew, its meaning."""
    for reference in schema["properties"]["task"]["discriminator"]["mapping"].values():
        definition = schema["$defs"][reference.removeprefix("#/$defs/")]
        definition["properties"]["name"]["description"] = "Selects this task."


def _let_be_a_suite(schema: dict[str, Any]) -> None:
    """Allow `tasks` instead of `task`: what its settings say is not checked key by key."""
    setting = {"type": "object", "required": ["task"], "properties": {"task": {"type": "object"}}}
    schema["properties"][TASKS] = {
        "type": "object",
        "description": "Instead of `task`, for a suite of sweeps: names of tasks, each with a list of settings. A "
        "setting has `task`; any other key in it, except `name`, overrides the suite's.",
        "minProperties": 1,
        "additionalProperties": {"type": "array", "minItems": 1, "items": setting},
    }
    schema["required"] = [key for key in schema["required"] if key != "task"]
    schema["oneOf"] = [{"required": ["task"]}, {"required": [TASKS]}]


def _mixers(definitions: dict[str, Any]) -> dict[str, Any]:
    """A hybrid's own properties: its mixers under `mixers`, their knobs there or as `D.state_dim`."""
    kinds = {name: registry.get(name) for name in registry.names()}
    for name, kind in kinds.items():
        definitions[f"{name} mixer"] = {
            "type": "object",
            "description": (kind.__doc__ or "").strip().split("\n")[0],
            "properties": {"mixer": {"const": name}, **_knobs(kind, definitions, kind.knobs())},
            "required": ["mixer"],
            "additionalProperties": False,
        }
    several = {"type": "array", "items": {"enum": list(kinds)}, "minItems": 1}
    definitions["several mixers"] = {
        "type": "object",
        "description": "One of several mixers; its knobs are those that all of them have.",
        "properties": {"mixer": several},
        "required": ["mixer"],
        "additionalProperties": {"$ref": "#/$defs/knob"},
    }
    one = {"type": ["number", "string", "boolean", "null"]}
    definitions["knob"] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}, _RANGE]}
    forms = [{"$ref": f"#/$defs/{name} mixer"} for name in kinds] + [{"$ref": "#/$defs/several mixers"}]
    mixers = {
        "type": "object",
        "description": HybridConfig.model_fields["mixers"].description,
        "patternProperties": {"^[A-Z]$": {"oneOf": forms}},
        "additionalProperties": False,
    }
    dotted = {
        "^[A-Z]\\.mixer$": {"anyOf": [{"enum": list(kinds)}, several]},
        "^[A-Z]\\.(?!mixer$)\\w+$": {"$ref": "#/$defs/knob"},
    }
    return {"properties": {"mixers": mixers}, "patternProperties": dotted}


def _knobs(config: type[BaseModel], definitions: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Schema of each of these knobs: a value, a list of values, or if it is a number a range."""
    schema = config.model_json_schema()
    definitions.update(schema.get("$defs", {}))
    knobs = {}
    for name, value in schema["properties"].items():
        if name not in names or "title" not in value:
            # what has keys of its own is not a knob
            continue
        told = {key: value.pop(key) for key in ("description", "default") if key in value}
        del value["title"]
        forms = [value, {"type": "array", "items": value, "minItems": 1}]
        if any(kind in json.dumps(value) for kind in ('"integer"', '"number"')):
            forms.append(_RANGE)
        knobs[name] = {**told, "anyOf": forms}
    return knobs


def schema_text() -> str:
    """The schema as the file `docs/sweep.schema.json` has it."""
    return json.dumps(specification_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
