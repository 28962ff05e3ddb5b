"""YAML files to settings.

A file may start from another one (`base: svd.yaml`), and all of them start from the fields of a dataclass of
`gm.settings`; whatever a file or the command line names must exist there. All faults are told at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gm import places
from gm.errors import UserError
from gm.files import require_file
from gm.settings import LARGEST, REQUIRED, Settings, defaults, join, plain, raise_if, read

MAX_BASES = 4  # a longer chain of files is a mistake, or unreadable
MAX_VALUES = 100_000  # of one file, repeated ones (`*name`) counted each time: a few lines can stand for billions
MAX_DEPTH = 100  # levels of one file
# What YAML's constructors raise for a value that is not of the kind that its tag names (`!!int abc`).
_NOT_OF_ITS_KIND = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
# What YAML 1.1 takes for a number of base 8 or 60.
_NOT_DECIMAL = re.compile(r"\s*[-+]?(0[0-7_]+|[0-9_]+(:[0-9]+)+[0-9._]*)\s*")
_USUAL_NAMES = {"lr": "learning_rate", "bs": "batch_size"}  # what others call our options

Kind = TypeVar("Kind", bound=Settings)


def load(kind: type[Kind], path: str | Path, overrides: Sequence[str] = ()) -> Kind:
    """`kind` from a YAML file: under it the defaults of the fields, over it `key.sub=value` overrides.

    Raises UserError on a missing or broken file, and with all that the file and the overrides say which cannot be.
    """
    faults: list[str] = []
    settings = read_values(path, overrides, faults, defaults(kind))
    found = read(kind, settings, "", faults)
    lacking = all(": has no value" in fault for fault in faults)
    fault = "leaves out what must be given" if lacking else "is invalid"
    raise_if(faults, f"{path}{' with the options given' if overrides else ''} {fault}:")
    return found


def read_values(
    path: str | Path, overrides: Sequence[str], faults: list[str], under: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Nested values of a YAML file (`gm.places.config`), under it its `base` and, under all, `under`, over it
    `key.sub=value` overrides; interpolations are resolved. Keys that nothing below has are added to `faults`.

    Raises UserError on a missing or broken file, or an override that says nothing.
    """
    settings = _read_chain(places.config(path), (), faults, under)
    for override in overrides:
        wrong: list[str] = []
        settings = _merge(settings, _change(settings, override), "", wrong, settings)
        faults += [f"override {override!r}: {fault}" for fault in wrong]
    try:
        config = OmegaConf.create(settings)
        OmegaConf.resolve(config)
        return _container(config)
    except OmegaConfBaseException as error:
        raise _about_key(path, error) from error


def chain(path: str | Path) -> list[Path]:
    """A YAML file that `load` has read, and those that it starts from."""
    found = [places.config(path)]
    while (base := _base(found[-1], _read_mapping(found[-1]))) is not None and len(found) <= MAX_BASES:
        found.append(base)
    return found


def _container(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def require_utf_8(options: Iterable[str]) -> None:
    """UserError for what a run's settings.yaml cannot hold; to be said before there is a run."""
    for option in options:
        try:
            option.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{option!r}: a name that is not UTF-8 cannot be in the settings of a run: rename it, or give a link "
                "to it (ln -s)"
            ) from error


def to_yaml(settings: Any) -> str:
    """Settings as the text of a YAML file."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(settings)))


def _change(settings: dict, override: str) -> dict:
    """`key.sub=value` -> {key: {sub: value}}.

    Where the old value is text the new one is taken as it stands, and where it is nothing unless YAML reads a number or
    a list: a path may have in it what YAML gives a meaning to, such as " #" and ": ".
    """
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"override {override!r}: expected key.sub=value")
    if not text.strip():
        raise UserError(f"override {override!r}: nothing is behind the equals sign; write null for no value")
    old: Any = settings
    for key in keys:
        old = old.get(key) if isinstance(old, dict) else None
    is_open = old in (None, REQUIRED)
    value: Any = text
    if is_open or not isinstance(old, str) or text == "null":
        try:
            value = _container(OmegaConf.from_dotlist([f"value={text}"]))["value"]
            _check_numbers(value)
        except (yaml.YAMLError, OmegaConfBaseException, RecursionError, *_NOT_OF_ITS_KIND) as error:
            if not is_open or isinstance(value, int):
                raise UserError(f"override {_shortened(override)!r}: {_first_line(error)}") from error
        if is_open and isinstance(value, (str, dict)):
            value = text
        if isinstance(value, (int, float)) and (fault := _misread(text)):
            raise UserError(f"override {override!r}: {fault}")
    for key in reversed(keys):
        value = {key: value}
    return value


def _misread(text: str) -> str | None:
    """What is to be said of a number that YAML reads otherwise than a person: 010 as 8, 1:30 as 90."""
    if not _NOT_DECIMAL.fullmatch(text):
        return None
    value = yaml.safe_load(text)
    if not isinstance(value, (int, float)) or (text.strip().lstrip("+-0") or "0") == str(abs(value)):
        return None
    return f"YAML reads {value}; write it without 0 in front and without colons"


def _read_chain(path: Path, seen: tuple, faults: list[str], under: dict[str, Any] | None) -> dict:
    if path.resolve() in seen:
        raise UserError(f"{path}: its chain of base files comes back to itself")
    if len(seen) > MAX_BASES:
        raise UserError(f"{path}: more than {MAX_BASES} base files under one another")
    settings = _read_mapping(path)
    base = _base(path, settings)
    settings.pop("base", None)
    if base is not None:
        under = _read_chain(base, seen + (path.resolve(),), faults, under)
    if under is None:
        return settings
    wrong: list[str] = []
    settings = _merge(under, settings, "", wrong, under)
    faults += [f"{path}: {fault}" for fault in wrong] if seen else wrong
    return settings


def _base(path: Path, settings: dict) -> Path | None:
    """The file that another one starts from, by what it says."""
    base = settings.get("base")
    if base is None:
        return None
    if not isinstance(base, str):
        raise UserError(f"{path}: base: expected the name of a file, found {base!r}")
    return path.parent / base if (path.parent / base).is_file() else places.config(base)


def _read_mapping(path: Path) -> dict:
    require_file(path, "the config")
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}: expected `key: value` lines at the top level")
        if _count(node, {}) > MAX_VALUES:
            raise UserError(f"{path}: more than {MAX_VALUES:,} values, repeated ones (`*name`) counted each time")
        # omegaconf's own loader refuses duplicate keys and reads 1e-4 as a number, which PyYAML's does not.
        mapping = _container(OmegaConf.create(text))
        _check_numbers(mapping)
        return mapping
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{path}:{line} {getattr(error, 'problem', None) or _first_line(error)}") from error
    except OmegaConfBaseException as error:
        raise _about_key(path, error) from error
    except RecursionError as error:
        raise UserError(f"{path}: values nested too deeply, or that contain themselves") from error
    except _NOT_OF_ITS_KIND as error:
        raise UserError(f"{path}: a value is not what its tag says, or too large: {_first_line(error)}") from error


def _count(node: yaml.Node, counted: dict[int, int], depth: int = 0) -> int:
    """Values of a YAML node with its repetitions written out; RecursionError beyond `MAX_DEPTH` levels, of which one
    that contains itself has endlessly many, YAMLError for a number that is misread."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if id(node) not in counted:
        if isinstance(node, yaml.ScalarNode) and node.style is None and (fault := _misread(node.value)):
            raise yaml.MarkedYAMLError(problem=f"{node.value}: {fault}", problem_mark=node.start_mark)
        below = node.value if isinstance(node, yaml.CollectionNode) else ()
        items = [item for pair in below for item in pair] if isinstance(node, yaml.MappingNode) else below
        counted[id(node)] = 1 + sum(_count(item, counted, depth + 1) for item in items)
    return counted[id(node)]


def _check_numbers(value: Any) -> None:
    """ValueError for a whole number beyond `LARGEST`."""
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{_shortened(value)} is too large for a whole number, 2**63 - 1 is the largest")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_numbers(item)


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:40]}… ({len(text)} characters)"


def _merge(base: dict, change: dict, path: str, faults: list[str], root: dict) -> dict:
    merged = dict(base)
    for key, value in change.items():
        where = join(path, key)
        old = base.get(key)
        if key not in base:
            faults.append(f"{where}: no such key{_suggestion(key, base, root)}")
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value, where, faults, root)
        elif isinstance(old, dict) != isinstance(value, dict) and old not in (None, REQUIRED) and value is not None:
            kinds = ("a section", "a single value") if isinstance(old, dict) else ("a single value", "a section")
            faults.append(f"{where}: is {kinds[0]}, cannot become {kinds[1]}")
        else:
            merged[key] = value
    return merged


def _suggestion(key: Any, section: dict, root: dict) -> str:
    """The option of that name in another section, else a near miss in this one, else one anywhere."""
    paths = list(_leaves(root, ""))
    found = [path for path in paths if path.rpartition(".")[2] == _USUAL_NAMES.get(key, key)][:3]
    for known in (section, paths):
        found = found or difflib.get_close_matches(str(key), map(str, known), n=1)
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""


def _leaves(section: dict, path: str) -> Iterator[str]:
    for key, value in section.items():
        where = join(path, key)
        yield from _leaves(value, where) if isinstance(value, dict) else [where]


def _about_key(path: str | Path, error: OmegaConfBaseException) -> UserError:
    where = f"{path}: {error.full_key}" if error.full_key else path  # omegaconf 2.3 often leaves the key out
    return UserError(f"{where}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
