"""Specifications as nobody should write them: real ones, of which parts or bytes were changed at random."""

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from recallfront.sweeps.load import studies
from tests.platform.specs import SEGMENT, tiny

_LONGER = SEGMENT | {"input_seq_len": 24}
REAL: list[dict[str, Any]] = [
    tiny(),
    tiny(search={"method": "tpe", "trials": 4, "startup_trials": 2}, seeds=[0, 1]),
    tiny(
        space=[{"architecture": "window", "window_size": {"low": 2, "high": 8, "step": 2}}],
        search={"method": "nsga2", "trials": 4, "population": 4},
    ),
    tiny(early_stopping={"first_rung_steps": 10, "reduction": 2}, budget_hours=1, concurrent=1, retries=0),
    tiny(
        space=[
            {
                "architecture": "hybrid",
                "mixers": {"D": {"mixer": "gated_deltanet"}, "A": {"mixer": "attention"}},
                "pattern": ["CD", "CDCA"],
                "D.state_dim": [16, 32],
            }
        ]
    ),
    tiny(
        space=[{"architecture": "hawk", "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}],
        search={"method": "random", "trials": 3},
        resources={"workers": 2, "cpus": 0.5, "memory_gb": 1.0, "time_limit_seconds": 60},
    ),
    tiny(
        task={"validation": [SEGMENT | {"examples": 64}, _LONGER | {"examples": 64}]},
        objectives=[
            {"metric": "recall_at_16"},
            {"metric": "state_bytes", "direction": "min", "reference": 1e6},
        ],
    ),
    tiny() | {"task": {"name": "text", "source": {"files": "no such file"}, "length": 16, "held_out": 0.2}},
    tiny() | {"start": {"folder": "no such folder"}},
    # reading the long ones takes most of the time
    *(yaml.safe_load(text) for text in studies().values() if len(text) < 2000),
]
ODD: list[Any] = [
    *(
        None,
        True,
        False,
        "",
        " ",
        "none",
        "no",
        "yes",
        "1",
        "1e3",
        "1:30",
        "\x85",
        "\u202e",
        "ключ",
        "🦊" * 40,
    ),
    *(
        0,
        -1,
        1,
        2,
        3,
        7,
        10**7,
        2**31,
        2**63,
        10**38,
        -(10**38),
        0.5,
        -0.5,
        1e-300,
        1e300,
        float("nan"),
        float("inf"),
    ),
    *([], {}, [[]], [{}], [None], {"": ""}, {"low": 1}, {"low": 2, "high": 1}, {"low": 1, "high": 10**18}),
    {"low": 0.1, "high": 1e300, "log": True},
    {"low": 0, "high": 1, "step": 1e-300},
    {"low": 1, "high": 10**9, "log": True, "step": 3},
    {"name": "mqar"},
    list(range(4000)),
    [0.1] * 50,
    "a" * 3000,
    "CA" * 50_000,
    "recall; DROP TABLE runs",
    "../../etc/passwd",
    "{{x}} %s [red]",
]
SNIPPETS: list[str] = [
    *(
        "\t",
        "\n",
        ":",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "#",
        "&a ",
        "*a ",
        "? ",
        "! ",
        "!!",
        "<<: ",
        "%",
        "@",
        "`",
        "|\n",
        ">-\n",
    ),
    *(
        "'",
        '"',
        "\\",
        "\x00",
        "\x07",
        "\ufeff",
        "\u2028",
        "\ud7ff",
        "é",
        "---\n",
        "...\n",
        "0x",
        "0o8",
        "1_0",
        "-.inf",
    ),
    *(
        ".nan",
        "!!binary aGk=",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "&a [*a]",
        "{<<: [1]}",
        "? [a]\n: b",
        "1e999",
    ),
    *(
        "[" * 40,
        "{a: " * 40,
        "%YAML 1.1\n---\n",
        "a: &b {c: *b}\n",
        "'\\u0000'",
        "9" * 60,
        "!<tag:yaml.org,2002:int> x",
    ),
]

_NUMBERS: tuple[Callable[[Any], Any], ...] = (
    *(lambda x: x + 1, lambda x: x - 1, lambda x: x * 2, lambda x: x // 2, lambda x: x * 10**6),
    *(lambda x: -x, lambda x: x / 3, lambda x: str(x), lambda x: x * 1e30),
)

Path = tuple[str | int, ...]


def odd_specification(rng: random.Random) -> bytes:
    """One specification, often with a single mild change: what is checked last is reached, too."""
    spec = copy.deepcopy(rng.choice(REAL))
    mild = rng.random() < 0.4
    for _ in range(1 if mild else rng.choice((1, 1, 2, 3, 8))):
        spec = _change(spec, rng, rng.choice((5, 6, 6, 6, 7)) if mild else rng.randrange(9))
    text = yaml.safe_dump(spec, allow_unicode=rng.random() < 0.5, sort_keys=False)
    for _ in range(0 if mild else rng.choice((0, 0, 1, 1, 4))):
        text = rng.choice(_TEXT_CHANGES)(text, rng)
    data = text.encode("utf-8", errors="surrogatepass")
    if rng.random() < 0.03 and data:
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return data


def _change(spec: Any, rng: random.Random, kind: int) -> Any:
    """Change what stands at one place of a specification."""
    path = rng.choice(list(_places(spec)))
    if not path:
        return rng.choice(ODD) if rng.random() < 0.2 else spec
    parent = spec
    for step in path[:-1]:
        parent = parent[step]
    last, value = path[-1], parent[path[-1]]
    if kind == 0:
        del parent[last]
    elif kind == 1 and isinstance(parent, dict):
        parent[f"{last}{rng.choice(('', 's', '.x', ' ', 'é'))}x"] = parent.pop(last)
    elif kind == 2 and isinstance(parent, dict):
        parent[rng.choice(("", "x", "seed", "name", "width", "training.steps", "D.window_size", "low"))] = (
            value
        )
    elif kind == 3:
        parent[last] = _nested(value, rng.choice((1, 2, 5, 40)))
    elif kind == 4:
        parent[last] = [value] * rng.choice((0, 2, 3, 30))
    elif kind == 5:
        other = rng.choice(list(_places(spec)))
        parent[last] = copy.deepcopy(_at(spec, other))
    elif kind == 6 and isinstance(value, int | float) and not isinstance(value, bool):
        parent[last] = rng.choice(_NUMBERS)(value)
    elif kind == 7 and isinstance(value, str):
        parent[last] = rng.choice(
            (value[1:], value + "x", value.upper(), value * 30, value[::-1], f" {value}\n")
        )
    else:
        parent[last] = copy.deepcopy(rng.choice(ODD))
    return spec


def _places(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    inner: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, below in inner:
        yield from _places(below, (*path, key))


def _at(spec: Any, path: Path) -> Any:
    for step in path:
        spec = spec[step]
    return spec


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _insert(text: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(SNIPPETS) + text[at:]


def _cut(text: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + text[at + rng.choice((1, 1, 5, 100)) :]


def _copy_a_line(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    lines.insert(rng.randint(0, len(lines)), rng.choice(lines))
    return "".join(lines)


def _indent_a_line(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    lines[at] = rng.choice((" ", "  ", "\t")) + lines[at]
    return "".join(lines)


def _laughs(text: str, rng: random.Random) -> str:
    levels = rng.randint(2, 9)
    rows = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(["x0: &x0 [lol, lol]", *rows, text])


_TEXT_CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    _insert,
    _insert,
    _cut,
    _copy_a_line,
    _indent_a_line,
    _laughs,
)
