"""Settings as typed dataclasses: what is known of an option stands at its field, and is checked here alone.

    @dataclass(frozen=True)
    class Loss(Settings):
        dropout: float = option("probability that a condition is left out", 0.1, least=0, most=1 / 3)

Help texts, the YAML files' defaults (`gm.config`), the command line and the page are made from the fields. No mindspore
here.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from gm.errors import UserError

REQUIRED = "???"  # a value that a file leaves open, as omegaconf writes it
LARGEST = 2**63 - 1  # of numbers; nothing counted here comes near it, and NumPy takes no larger whole ones


class Decides(enum.Flag):
    """What depends on an option: the RESULT, beyond rounding; the GRAPHS that are compiled."""

    NOTHING = 0
    RESULT = 1
    GRAPHS = 2
    ALL = 3


class About(NamedTuple):
    """What an option's field says of it besides type and default.

    help: its meaning, a phrase. least, most: the smallest and the largest value of a number, or of each in a list;
    above: what it must be more than. choices: all values that there are. filled: a list must have something in it.
    decides: what of earlier work cannot be used where the value is another, results by --skip_done, graphs by
    --compile_cache. On a command line: called: its name, {} for the field's, where it is not as the class says; also:
    another program's name for it; parse: from what is typed to the value; group: its headline in the help.
    """

    help: str = ""
    least: float = -math.inf
    most: float = LARGEST
    above: float = -math.inf
    choices: tuple[Any, ...] = ()
    filled: bool = False
    decides: Decides = Decides.ALL
    called: str = ""
    also: str = ""
    parse: Callable[[str], Any] | None = None
    group: str = ""


def option(help: str, default: Any = MISSING, *, choices: Iterable[Any] = (), **known: Any) -> Any:
    """A dataclass field with what `About` says of it; without a default its value must be given."""
    return dataclasses.field(default=default, metadata={"about": About(help, choices=tuple(choices), **known)})


count = functools.partial(option, least=1)  # so many: at least one


def about(field: dataclasses.Field[Any]) -> About:
    """What `option` said of a field; nothing of a plain one."""
    return field.metadata.get("about", About())


class Settings:
    """Base of frozen dataclasses of options, which may lie in one another: none is made of what cannot be.

    Raises:
        UserError: every fault of every field, each with its path.
    """

    called = "--{}"  # its options on a command line, where their fields say nothing

    def __post_init__(self) -> None:
        faults: list[str] = []
        checked = read(type(self), dict(vars(self)), "", faults)
        raise_if(faults, "invalid settings:")
        vars(self).update(vars(checked))  # lists are tuples there

    def contradictions(self) -> Iterable[str]:
        """Faults that are not of a single field, each a sentence that begins with a field's name."""
        return ()


def read(kind: type, values: Any, path: str, faults: list[str]) -> Any:
    """`kind`, a dataclass of `Settings`, from {field: value}, nested as its fields are; what cannot be is added to
    `faults`. None where a value is not of its field's type."""
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        faults.append(f"{path}: expected a section, found {values!r}")
        return None
    found, whole = {}, True
    for field in dataclasses.fields(kind):
        where, value, known = join(path, field.name), _frozen(values[field.name]), about(field)
        section, right = section_of(kind, field), False
        if section:
            value = read(section, value, where, faults)
            right = value is not None
        elif value == REQUIRED:
            faults.append(f"{where}: has no value{known.help and ': ' + known.help}")
        elif not any(_fits(value, expected) for expected in types_of(kind)[field.name]):
            expected = str(field.type).replace("tuple[", "list[").replace(", ...]", "]")  # as a YAML file has it
            faults.append(f"{where}: expected {expected}, found {values[field.name]!r}")
        else:
            right = True
            faults += [f"{where} {plain(value)!r}: {fault}" for fault in _limit_faults(value, known)]
        found[field.name], whole = value, whole and right
    if not whole:
        return None
    made: Any = object.__new__(kind)  # without another check of what was checked here
    vars(made).update(found)
    faults += [join(path, fault) for fault in made.contradictions()]
    return made


def _limit_faults(value: Any, known: About) -> Iterable[str]:
    """What is wrong with a value of the right type: the first thing of it."""
    if isinstance(value, tuple):
        if known.filled and not value:
            return ["must not be empty"]
        return [f"each {fault}" for item in value for fault in _limit_faults(item, known)][:1]
    if value == "":
        return ["must not be empty"]
    if known.choices and value is not None and value not in known.choices:
        return [f"must be one of {', '.join(map(str, known.choices))}"]
    if not _fits(value, float):
        return []
    if not abs(value) < math.inf:
        return ["must be a finite number"]
    if value <= known.above:
        return [f"must be more than {_number(known.above)}"]
    if value < known.least:
        return [f"must be at least {_number(known.least)}"]
    return [f"must be {_number(known.most)} or less"] if value > known.most else []


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


@functools.cache
def types_of(kind: type) -> dict[str, tuple[Any, ...]]:
    """{field: the types that its annotation names, one or several}; Python 3.9 cannot evaluate `int | None`."""
    names: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        names.update(vars(sys.modules[base.__module__]))
    return {
        field.name: tuple(eval(part, names) for part in str(field.type).split(" | "))
        for field in dataclasses.fields(kind)
    }


def section_of(kind: type, field: dataclasses.Field[Any]) -> type | None:
    """The dataclass of `Settings` that a field holds; None for an option."""
    expected = types_of(kind)[field.name][0]
    return expected if isinstance(expected, type) and issubclass(expected, Settings) else None


def _fits(value: Any, expected: Any) -> bool:
    if expected in (None, Any):
        return expected is Any or value is None
    if get_origin(expected) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(expected)[0]) for item in value)
    if expected in (int, float):  # True is an int to Python, but not to the reader of a file
        number = numbers.Integral if expected is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, get_origin(expected) or expected)


def _frozen(value: Any) -> Any:
    """Lists as tuples; NumPy's numbers as Python's, since MindSpore takes no others, and they overflow."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def plain(value: Any) -> Any:
    """Settings as nested dicts and lists, which YAML and JSON can hold."""
    if isinstance(value, Settings):
        fields = dataclasses.fields(value)  # type: ignore[arg-type]  # of an object, never of its class
        value = {field.name: getattr(value, field.name) for field in fields}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return list(map(plain, value)) if isinstance(value, (list, tuple)) else value


def those_of(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """What `values` says of the fields of `kind`."""
    return {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}


def recorded(settings: Settings) -> dict[str, Any]:
    """{field: value} of the options that decide anything; a path is told in full."""
    found = {}
    for name, field in options_of(type(settings)):
        value = getattr(settings, name)
        if about(field).decides:
            is_path = value is not None and "Path" in str(field.type).split(" | ")
            found[name] = str(Path(value).resolve()) if is_path else plain(value)
    return found


def indifferent(what: Decides, *kinds: type) -> set[str]:
    """Names of the fields of `kinds` on which `what` does not depend."""
    return {field.name for kind in kinds for field in dataclasses.fields(kind) if not about(field).decides & what}


def defaults(kind: type) -> dict[str, Any]:
    """{field: default}, nested as the fields are, `REQUIRED` where there is none."""
    found = {}
    for field in dataclasses.fields(kind):
        section = section_of(kind, field)
        nothing = defaults(section) if section else REQUIRED
        found[field.name] = nothing if field.default is MISSING else plain(field.default)
    return found


def options_of(kind: type, path: str = "") -> Iterable[tuple[str, dataclasses.Field[Any]]]:
    """(path, field) of every option, those of the sections in it too."""
    for field in dataclasses.fields(kind):
        where, section = join(path, field.name), section_of(kind, field)
        yield from options_of(section, where) if section else [(where, field)]


def join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def raise_if(faults: list[str], head: str) -> None:
    """One UserError of all faults under a headline, where there are any."""
    if faults:
        raise UserError("\n  ".join([head, *faults]))
