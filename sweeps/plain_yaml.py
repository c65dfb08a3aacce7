"""YAML 1.2's plain values within bounds: no code, no key twice, no number that is another than it looks.

The values are built from the parser's events, so that no text of a few bytes grows into millions of values, and none
is read by YAML 1.1's rules, by which `010` is 8, `1:30` is 90, `no` is false and `1e-3` is text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from recallfront.models.configs.explain import shortened

MOST_BYTES: Final = 2**18
_MOST_VALUES: Final = 5_000  # with aliases written out; a long text counts as several
_TEXT_OF_ONE_VALUE: Final = 100  # characters
_DEEPEST: Final = 32
_MOST_DIGITS: Final = 40
_TAG: Final = "tag:yaml.org,2002:"
_NULL: Final = re.compile(r"~|null|Null|NULL|")
_BOOL: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_NO_TEXT: Final = re.compile(r"[\x00\ud800-\udfff]")  # what neither a file nor a database keeps
# https://yaml.org/spec/1.2.2/#103-core-schema
_SCHEMA: Final = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT}


class NotPlain(ValueError):
    """Text that is not YAML, or no plain one; the message begins with the line, where there is one."""


@dataclass
class _Open:
    """A list or mapping whose end has not been read."""

    value: list[Any] | dict[str, Any]
    anchor: str | None
    before: int  # values read until it began
    key: str | None = None
    merged: list[dict[str, Any]] = field(default_factory=list)
    merges: bool = False  # the value that is read next is one to merge


_PENDING: Final = object()


def read_yaml(text: str) -> Any:
    """The value of a YAML document: dict, list, str, int, float, bool or None.

    Raises:
        NotPlain: names the line and what is wrong there.
    """
    if len(text.encode(errors="replace")) > MOST_BYTES:
        raise NotPlain(f"is longer than {MOST_BYTES // 1024} KiB")
    try:
        return _Reader().read(yaml.parse(text, yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        context = f"{error.context}: " if error.context else ""
        raise NotPlain(f"{where}is not YAML: {context}{error.problem}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise NotPlain(f"is not YAML: {' '.join(str(error).split())}") from None


class _Reader:
    def __init__(self) -> None:
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._open: list[_Open] = []
        self._values = 0
        self._root: Any = None

    def read(self, events: Iterator[Any]) -> Any:
        documents = 0
        for event in events:
            line = event.start_mark.line + 1
            try:
                documents += isinstance(event, yaml.DocumentStartEvent)
                if documents > 1:
                    raise NotPlain("is not YAML: but found another document")
                self._take(event)
            except NotPlain as error:
                raise NotPlain(f"line {line}: {error}") from None
        return self._root

    def _take(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            raise NotPlain(f"has more than {_MOST_VALUES} values, those that aliases repeat included")

    def _alias(self, name: Any) -> None:
        value, values = self._anchors.get(name, (None, 0))
        if value is _PENDING:
            raise NotPlain(f"the alias *{name} is inside its own value")
        if not values:
            raise NotPlain(f"is not YAML: found undefined alias {name!r}")
        self._count(values)
        self._add(value)

    def _scalar(self, event: Any) -> None:
        own = 1 + len(event.value) // _TEXT_OF_ONE_VALUE
        self._count(own)
        at = self._open[-1] if self._open else None
        if at is not None and isinstance(at.value, dict) and at.key is None and not at.merges:
            self._key(at, event)
            return
        value = _scalar_value(event)
        if event.anchor:
            self._anchors[event.anchor] = (value, own)
        self._add(value)

    def _key(self, at: _Open, event: Any) -> None:
        key = str(event.value)
        _scalar_value(event)  # its tag must be possible
        if event.anchor:
            self._anchors[event.anchor] = (key, 1)
        at.merges = key == "<<" and event.implicit[0]
        if at.merges and at.merged:
            raise NotPlain("is not YAML: key '<<' appears twice")
        if not at.merges:
            self._name(at, key)

    @staticmethod
    def _name(at: _Open, key: str) -> None:
        assert isinstance(at.value, dict)
        if key in at.value:
            raise NotPlain(f"is not YAML: key {shortened(key)!r} appears twice")
        at.key = key
        at.value[key] = None  # its place, in the order of the text

    def _begin(self, event: Any) -> None:
        self._count(1)
        if len(self._open) >= _DEEPEST:
            raise NotPlain("is nested too deep to be a specification")
        is_list = isinstance(event, yaml.SequenceStartEvent)
        if event.tag not in (None, "!", _TAG + ("seq" if is_list else "map")):
            raise _foreign(event.tag)
        at = self._open[-1] if self._open else None
        if at is not None and isinstance(at.value, dict) and at.key is None and not at.merges:
            raise NotPlain("is not YAML: found unhashable key: a key is a word, not a list or mapping")
        if event.anchor:
            self._anchors[event.anchor] = (_PENDING, 1)
        self._open.append(_Open([] if is_list else {}, event.anchor, self._values - 1))

    def _end(self) -> None:
        done = self._open.pop()
        if isinstance(done.value, dict):
            for other in done.merged:
                done.value = other | done.value
        if done.anchor:
            self._anchors[done.anchor] = (done.value, self._values - done.before)
        self._add(done.value)

    def _add(self, value: Any) -> None:
        if not self._open:
            self._root = value
            return
        at = self._open[-1]
        if isinstance(at.value, list):
            at.value.append(value)
        elif at.merges:
            others = value if isinstance(value, list) else [value]
            if not others or not all(isinstance(other, dict) for other in others):
                raise NotPlain("is not YAML: << takes a mapping, or a list of them")
            at.merged, at.merges = list(others), False
        elif at.key is None:  # an alias as a key
            if not isinstance(value, str):
                raise NotPlain("is not YAML: found unhashable key: a key is a word")
            self._name(at, value)
        else:
            at.value[at.key], at.key = value, None


def _scalar_value(event: Any) -> Any:
    text, tag = str(event.value), event.tag
    if found := _NO_TEXT.search(text):
        raise NotPlain(f"has a character that is not text ({found[0].encode('unicode_escape').decode()})")
    if tag is None and event.implicit[0]:  # written without quotes
        kind = next((kind for kind, form in _SCHEMA.items() if form.fullmatch(text)), "str")
        return _value(kind, text)
    if tag in (None, "!"):
        return text
    kind = tag.removeprefix(_TAG)
    if kind == "str":
        return text
    if tag == kind or kind not in _SCHEMA:
        raise _foreign(tag)
    fits = _SCHEMA[kind].fullmatch(text) or (kind == "float" and _INT.fullmatch(text))
    if not fits:
        raise NotPlain(f"is not YAML: {shortened(text)!r} is not !!{kind}")
    return _value(kind, text)


def _value(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "str":
        return text
    if len(text) > _MOST_DIGITS:
        raise NotPlain(f"{shortened(text)}: is a number of more than {_MOST_DIGITS} digits")
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _foreign(tag: str) -> NotPlain:
    if tag.startswith(_TAG) and not tag.startswith(f"{_TAG}python/"):
        return NotPlain(
            f"the tag !!{shortened(tag.removeprefix(_TAG))} is not allowed here: write a plain value"
        )
    return NotPlain("tags that make Python objects are not allowed")
