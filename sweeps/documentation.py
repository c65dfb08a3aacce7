"""The page of every key of a specification: `python -m recallfront.sweeps.documentation > docs/specification.md`.

It is the JSON schema of a sweep, made readable: what the models say about a key is the only place where it is said.
"""

import re
from typing import Any

import yaml

from recallfront.sweeps.claims import Claim
from recallfront.sweeps.schema import specification_schema
from recallfront.sweeps.space import TRAINING_PREFIX
from recallfront.sweeps.tasks.mqar import MQARConfig

Schema = dict[str, Any]  # a JSON schema, or a part of one

_REFERENCE = "#/$defs/"
_BLOCK = re.compile(r"(\w+) block")
_MIXER = re.compile(r"(\w+) mixer")
_SHARED = "knobs of all blocks"
_INTRODUCTION = """\
# The specification of a sweep

A sweep is one YAML file. [README.md](../README.md#submit) shows an example, and the study `quickstart`
(`sweeps/studies/quickstart.yaml`) is another. This page lists every key; `python -m recallfront.sweeps.documentation`
writes it from the models that check a specification. Editors check a file as you type with
[sweep.schema.json](sweep.schema.json).

A key without a default is required, unless its type is a section whose own keys have defaults, its meaning names the
default, or another key stands in for it. All values are checked before anything is computed, and an error names the
key, the value and what is allowed. The same specification run again resumes its sweep: `description`, `question`,
`expected_minutes`, `claims`, `concurrent`, `retries`, `budget` and `search.trials` may change between runs; any other
change makes it another sweep.
"""
_MOST_PATHS = 3  # in a heading
_CONTINUOUS = """\
Zoology's continuous variant of MQAR, which has vectors instead of tokens, is not a task, since models here read tokens;
`recallfront.sweeps.continuous_mqar` draws its rows, which equal the authors', for those who feed vectors to a mixer.
"""
_KNOBS = """\
## The blocks of `space`

A block has an `architecture` and any knobs of that architecture; a knob that is left out keeps its default. A knob is

- one value: `window_size: 16`;
- a list of values: `window_size: [16, 32]`;
- or a range, if it is a number: `window_size: {low: 16, high: 64, step: 16}`.

In a `hybrid` any mixer is beside any other: `mixers` says what each letter of `pattern` is; C is the gated short
convolution if nothing else is declared, and each mixer's knobs are knobs of the block, under `mixers` or beside it:

```yaml
- architecture: hybrid
  mixers: {D: {mixer: gated_deltanet}, A: {mixer: attention, positions: none}}
  pattern: [CD, CDCDCDCA, CDCA]
  D.state_dim: [16, 32]
```

`D.mixer: [gla, gated_deltanet]` makes the mixer itself a knob. A pattern uses what is declared, or a part of it.
The pattern is also the ratio of the mixers: `CDCA` has one attention to one gated DeltaNet, `CDCDCDCA` one to three.

The default of `num_layers` is the length of `pattern`. Any key of [training](#training) is a knob too, with the prefix
`training.`: `training.learning_rate: {low: 1.0e-3, high: 1.0e-2, log: true}`. A knob may be null if only other
architectures have it.
"""
_CLAIMS = """\
## The measures of a claim

A claim asks the finished trials whether a sentence of a paper holds here:

```yaml
claims:
  - id: based-over-windows
    source: arXiv:2402.18668, figure 2
    sentence: At equal state Based recalls more than a sliding window.
    measures:
      based: best test_recall where architecture == based
      window: best test_recall where architecture == window and state_bytes <= based.state_bytes
    condition: based - window >= 0.05
```

A measure is `STATISTIC METRIC where CONDITION`. The condition is that of `pick --where`: clauses joined by `and`, such
as `state_bytes <= 4096` or `architecture in (based, gla)`, in which `recall` is validation recall and `test_recall`
that of the test split; a bound may also be a metric of the configuration that another measure chose, such as
`based.state_bytes`. `none` matches the value `none` if some configuration has it, as in `positions == none`; otherwise
it matches null, as in `window_size == none`, which includes configurations without the setting. Without `where`, all
configurations count. The statistic is

- `best`: the metric of the configuration that is best in the sweep's first objective, on the validation split;
- `highest` or `lowest`: the metric's own extreme; of equals these and `best` choose the one with the least state;
- `mean`: over the configurations;
- `slope METRIC over OTHER` or `correlation METRIC over OTHER` (Spearman's): across the configurations; OTHER is a
  metric or a knob, or `log2(...)` of one.

The claims of a suite are about all its tasks: a metric is named after its task, as in
`correlation text.perplexity over mqar.test_recall`, and is the mean over the task's settings; `TASK+TASK.METRIC` is the
mean over tasks. A configuration is known by its architecture and the knobs that vary, and counts once every sweep has
finished it; `best` is not a statistic there, as each sweep has an objective of its own.

A configuration's metrics are those of its seeds taken together. The verdict is `supported` if the condition holds at
both ends of the 95 % interval of its number, `contradicted` if at neither, else `undecided`, as it is with fewer than
`seeds` seeds or trials still to run, those that a budget left out among them; `not tested` if no configuration is
selected. Numbers that differ by rounding alone are equal. `best`, `highest` and `lowest` choose among the
configurations that have finished; if a seed of the chosen one has not, the claim is `undecided`. `mean`, `slope` and
`correlation` are of all that the condition may select: if one of these was stopped early, failed, or has no finite
value in a seed, the claim is `undecided`.

The interval is a bias-corrected
bootstrap over seeds, and the number lies in it. With three seeds it is narrower than its name says: more seeds make a
verdict surer. A claim that asks for one seed (`seeds: 1`), such as one about a pretrained model that is not trained, is
judged by its number alone, which is shown with `(one seed)` and without an interval, unless it is a throughput, or a
latency or share of the roofline, which belong to one: these have the interval of its repeats.
"""

_AFTER = {MQARConfig.__name__: _CONTINUOUS, Claim.__name__: _CLAIMS}  # definition -> what follows its table


def specification_page() -> str:
    """The text of docs/specification.md."""
    schema = specification_schema()
    definitions = schema["$defs"]
    places = _places(schema)
    ours = {name: paths for name, paths in places.items() if not _BLOCK.fullmatch(name) and name != "Range"}
    titles = {name: _title(name, paths) for name, paths in ours.items()} | {"Range": "A range"}

    def section(heading: str, definition: Schema) -> list[str]:
        return [heading, _says(definition), _table(definition, definitions, titles)]

    parts = [_INTRODUCTION, *section("## Keys at the top", {**schema, "description": ""})]
    for name, paths in ours.items():
        parts += section(f"## {titles[name]}", definitions[name])
        if len(paths) > _MOST_PATHS:
            parts.insert(
                -2, f"Of the tasks {', '.join(dict.fromkeys(path.split('.')[0] for path in paths))}."
            )
        parts.append(_AFTER.get(name, ""))
    parts += [_KNOBS, *section("### A range", definitions["Range"])]
    parts += section("### Knobs of every architecture", _without_training(definitions[_SHARED]))
    for name, definition in definitions.items():
        if block := _BLOCK.fullmatch(name):
            parts += section(f"### {block[1]}", definition)
    for name, definition in definitions.items():
        if mixer := _MIXER.fullmatch(name):
            parts += section(f"### Mixer {mixer[1]}", definition)
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _places(schema: Schema) -> dict[str, list[str]]:
    """Definition -> the keys whose values it describes, each as a path from the top of a specification."""
    definitions = schema["$defs"]
    found: dict[str, list[str]] = {}

    def walk(part: Schema, path: str) -> None:
        for key, value in part.get("properties", {}).items():
            members = _references(value)
            for name in members:
                # Of several kinds of a value, such as the tasks, each is called by its own name.
                own = (
                    definitions[name]["properties"].get("name", {}).get("const") if len(members) > 1 else None
                )
                inner = f"{path}{key} {own}" if own else f"{path}{key}"
                if inner not in found.setdefault(name, []):
                    found[name].append(inner)
                    walk(definitions[name], f"{own or inner}.")

    walk({"properties": {k: v for k, v in schema["properties"].items() if k != "space"}}, "")
    return found


def _title(name: str, paths: list[str]) -> str:
    """Where a definition is used; the rows that tasks share are called by their own name."""
    return ", ".join(paths) if len(paths) <= _MOST_PATHS else f"{name.removesuffix('Rows')} rows"


def _references(part: Any) -> list[str]:
    """The definitions that a schema refers to, in order."""
    if isinstance(part, list):
        return [name for each in part for name in _references(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"].removeprefix(_REFERENCE)] if "$ref" in part else []
    return own + [name for key in ("anyOf", "oneOf", "items") for name in _references(part.get(key))]


def _without_training(definition: Schema) -> Schema:
    own = {k: v for k, v in definition["properties"].items() if not k.startswith(TRAINING_PREFIX)}
    return {**definition, "properties": own}


def _says(definition: Schema) -> str:
    """What the model's docstring says."""
    return " ".join(str(definition.get("description", "")).split())


def _table(definition: Schema, definitions: Schema, titles: dict[str, str]) -> str:
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    required = definition.get("required", [])
    for key, value in definition.get("properties", {}).items():
        if key in ("architecture", "mixer"):
            continue
        default = "" if key in required else _default(value, definitions)
        cells = (f"`{key}`", _kind(_one_value(value), titles), default, value.get("description", ""))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _one_value(value: Schema) -> Schema:
    """Of a knob, which may be a value, a list or a range, the value."""
    forms = value.get("anyOf", [])
    is_knob = len(forms) > 1 and forms[1].get("items") == forms[0]
    return forms[0] if is_knob else value


def _default(value: Schema, definitions: Schema) -> str:
    """The default as YAML, without what the key's own section says."""
    if "default" not in value:
        return ""
    default = value["default"]
    for name in _references(value):
        if isinstance(default, dict):
            return ""
        if isinstance(default, list):
            own = {key: part.get("default") for key, part in definitions[name]["properties"].items()}
            default = [{k: v for k, v in each.items() if v != own[k]} for each in default]
    shown = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return f"`{shown}`"


def _kind(value: Schema, titles: dict[str, str]) -> str:
    """The type of a value in words."""
    if "$ref" in value:
        title = titles[value["$ref"].removeprefix(_REFERENCE)]
        return f"[{title.split(',')[0]}](#{_anchor(title)})"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if forms := value.get("anyOf") or value.get("oneOf"):
        shared = {"type": value["type"]} if "type" in value else {}
        kinds = list(dict.fromkeys(_kind(shared | form, titles) for form in forms))
        if "number" in kinds and "integer" in kinds:
            kinds.remove("integer")
        return " or ".join(kinds)
    if "prefixItems" in value:
        return f"list of {len(value['prefixItems'])} x {_kind(value['prefixItems'][0], titles)}"
    if value.get("type") == "array":
        items = value.get("items", {})
        return "list of blocks" if "oneOf" in items else f"list of {_kind(items, titles)}"
    names = {"string": "text", "boolean": "true or false", "object": "mapping"}
    kind = str(value.get("type", "any"))
    return names.get(kind, kind) + _limits(value)


def _limits(value: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {value[key]:,}" for key, sign in signs.items() if key in value]
    return f" {', '.join(told)}" if told else ""


def _anchor(title: str) -> str:
    """Where a heading is found on the page, as GitHub names it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    print(specification_page(), end="")
