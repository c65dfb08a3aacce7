"""What differs between two lineages, and whether it matters."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from recallfront.platform.errors import printable
from recallfront.platform.lineage.environment import LIBRARIES, PACKAGES_FILE, Lineage

_PLACES: Final = ("CUDA_VISIBLE_DEVICES",)  # says where a trial ran, not what came out


@dataclass(frozen=True)
class Difference:
    """One thing in which two lineages differ; `matters` if results may differ because of it."""

    text: str
    matters: bool

    def __str__(self) -> str:
        return self.text


def compare_lineage(a: Lineage, b: Lineage) -> tuple[Difference, ...]:
    """What differs from `a` to `b`, in words; what matters for the results comes first."""
    return tuple(sorted(_differences(a, b), key=lambda difference: not difference.matters))


def _differences(a: Lineage, b: Lineage) -> Iterator[Difference]:
    pairs = [
        ("code_version", a.code_version, b.code_version, True),
        ("processor", a.hardware.cpu, b.hardware.cpu, True),
        ("vector instructions", _words(a.hardware.instructions), _words(b.hardware.instructions), True),
        ("GPUs", _words(a.hardware.gpus), _words(b.hardware.gpus), True),
        ("GPU driver", a.hardware.driver, b.hardware.driver, False),
        ("cores", a.hardware.cores, b.hardware.cores, False),
        ("recallfront", a.recallfront, b.recallfront, False),
        ("git commit", a.commit, b.commit, False),
        ("python", a.python, b.python, False),
        ("operating system", a.platform, b.platform, False),
    ]
    old, new = ({plugin.name: str(plugin) for plugin in one.plugins} for one in (a, b))
    pairs += [
        (f"plug-in {name}", old.get(name), new.get(name), True) for name in sorted(old.keys() | new.keys())
    ]
    for name in sorted(a.libraries.keys() | b.libraries.keys()):
        pairs.append((name, a.libraries.get(name), b.libraries.get(name), LIBRARIES.get(name, False)))
    for name in sorted(a.environment.keys() | b.environment.keys()):
        pairs.append((name, a.environment.get(name), b.environment.get(name), name not in _PLACES))
    changed = [
        found for what, old, new, matters in pairs if (found := _change(what, old, new, matters=matters))
    ]
    yield from changed
    if a.packages_digest != b.packages_digest and not any(
        a.libraries[n] != b.libraries.get(n) for n in a.libraries
    ):
        yield Difference(f"other installed packages differ ({PACKAGES_FILE})", matters=False)


def _change(what: str, old: object, new: object, *, matters: bool) -> Difference | None:
    if old == new:
        return None
    shown = ["none" if value in (None, "") else value for value in (old, new)]
    return Difference(printable(f"{what} {shown[0]} -> {shown[1]}"), matters)


def _words(names: tuple[str, ...]) -> str:
    return ", ".join(names)
