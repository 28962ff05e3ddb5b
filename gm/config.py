"""YAML files to checked settings to objects.

A file may start from another one (`base: svd.yaml`); whatever it or the command line names must exist there. Sections
are compared with the signatures they are meant for before anything is built, and all faults are told at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gm import places
from gm.errors import UserError
from gm.files import require_file
from gm.signatures import check_call, fits, hint, join, plain, syntax

MAX_BASES = 4  # a longer chain of files is a mistake, or unreadable
MAX_VALUES = 100_000  # of one file, repeated ones (`*name`) counted each time: a few lines can stand for billions
MAX_DEPTH = 100  # levels of one file
LARGEST = 2**63 - 1  # of whole numbers; nothing counted here comes near it, and NumPy takes no larger ones
# What YAML's constructors raise for a value that is not of the kind that its tag names (`!!int abc`).
_NOT_OF_ITS_KIND = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
_USUAL_NAMES = {"lr": "learning_rate", "bs": "batch_size"}  # what others call our options


class Section(NamedTuple):
    """In a schema: the arguments of one call of `target`."""

    target: Callable


def load_config(path, overrides: Sequence[str] = ()) -> DictConfig:
    """Read a YAML file (`gm.places.config`), under it its `base`, over it `key.sub=value` overrides;
    interpolations are resolved.

    Raises UserError on a missing or broken file, a key that the base does not have, or a value left open (`???`).
    """
    settings = _read_chain(places.config(path), ())
    for override in overrides:
        settings = _merged(settings, _change(settings, override), f"override {override!r}", path)
    try:
        config = OmegaConf.create(settings)
        OmegaConf.resolve(config)
        open_values = sorted(OmegaConf.missing_keys(config))
    except OmegaConfBaseException as error:
        raise _about_key(path, error) from error
    if open_values:
        raise UserError(f"{path}: no value for {', '.join(open_values)}")
    OmegaConf.set_struct(config, True)
    return config


def _change(settings: dict, override: str) -> dict:
    """`key.sub=value` -> {key: {sub: value}}.

    Where the old value is text the new one is taken as it stands, and where it is nothing unless YAML reads a number or
    a list: a path may have in it what YAML gives a meaning to, such as " #" and ": ".
    """
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"override {override!r}: expected key.sub=value")
    old: Any = settings
    for key in keys:
        old = old.get(key) if isinstance(old, dict) else None
    is_open = old is None or old == "???"
    value: Any = text
    if is_open or not isinstance(old, str) or text == "null":
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]
            _check_numbers(value)
        except (yaml.YAMLError, OmegaConfBaseException, RecursionError, *_NOT_OF_ITS_KIND) as error:
            if not is_open or isinstance(value, int):
                raise UserError(f"override {_shortened(override)!r}: {_first_line(error)}") from error
        if is_open and isinstance(value, (str, dict)):
            value = text
    for key in reversed(keys):
        value = {key: value}
    return value


def _read_chain(path: Path, seen: tuple) -> dict:
    if path.resolve() in seen:
        raise UserError(f"{path}: its chain of base files comes back to itself")
    if len(seen) > MAX_BASES:
        raise UserError(f"{path}: more than {MAX_BASES} base files under one another")
    settings = _read_mapping(path)
    base = settings.pop("base", None)
    if base is None:
        return settings
    if not isinstance(base, str):
        raise UserError(f"{path}: base: expected the name of a file, found {base!r}")
    base_path = path.parent / base
    if not base_path.is_file():
        base_path = places.config(base)
    return _merged(_read_chain(base_path, seen + (path.resolve(),)), settings, path, base_path)


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
        mapping = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
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


def _count(node, counted: dict, depth: int = 0) -> int:
    """Values of a YAML node with its repetitions written out; RecursionError beyond `MAX_DEPTH` levels, of which one
    that contains itself has endlessly many."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if id(node) not in counted:
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


def _merged(base: dict, change: dict, source, base_source) -> dict:
    faults: list[str] = []
    merged = _merge(base, change, "", faults, base)
    _raise_if(faults, f"{source} does not fit {base_source}:")
    return merged


def _merge(base: dict, change: dict, path: str, faults: list[str], root: dict) -> dict:
    merged = dict(base)
    for key, value in change.items():
        where = join(path, key)
        old = base.get(key)
        if key not in base:
            faults.append(f"{where}: no such key{_suggestion(key, base, root)}")
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value, where, faults, root)
        elif isinstance(old, dict) != isinstance(value, dict) and old is not None and value is not None:
            kinds = ("a section", "a single value") if isinstance(old, dict) else ("a single value", "a section")
            faults.append(f"{where}: is {kinds[0]}, cannot become {kinds[1]}")
        else:
            merged[key] = value
    return merged


def _suggestion(key: Any, section: dict, root: dict) -> str:
    """The option of that name in another section, else a near miss in this one, else one anywhere."""
    paths: dict[str, list[str]] = {}
    for path in _leaves(root, ""):
        paths.setdefault(path.rpartition(".")[2], []).append(path)
    elsewhere = paths.get(_USUAL_NAMES.get(key, key), [])
    if elsewhere:
        return f" (did you mean {' or '.join(map(repr, elsewhere[:3]))}?)"
    return hint(key, section) or hint(key, [path for named in paths.values() for path in named])


def _leaves(section: dict, path: str):
    for key, value in section.items():
        where = join(path, key)
        yield from _leaves(value, where) if isinstance(value, dict) else [where]


def check(config, schema: Mapping, path) -> None:
    """Compare a config with nested `schema`: {name: Section | annotation such as "int" | nested mapping}.

    Raises one UserError that names the file `path` and lists every fault of every section.
    """
    _raise_if(_check_mapping(plain(config), schema, ""), f"{path} is invalid:")


def _check_mapping(settings: Any, schema: Mapping, path: str) -> list[str]:
    if not isinstance(settings, dict):
        return [f"{path}: expected a section, found {settings!r}"]
    faults = [f"{join(path, key)}: no such key{hint(key, schema)}" for key in settings if key not in schema]
    for key, expected in schema.items():
        where = join(path, key)
        if key not in settings:
            faults.append(f"{where}: missing")
        elif isinstance(expected, Section):
            faults += check_call(expected.target, settings[key], where)
        elif isinstance(expected, Mapping):
            faults += _check_mapping(settings[key], expected, where)
        elif not fits(settings[key], syntax(expected)[1]):
            faults.append(f"{where}: expected {expected}, found {settings[key]!r}")
    return faults


def build(target: Callable, section, path: str, **extra) -> Any:
    """`target(**section, **extra)` with lists turned into tuples. Raises UserError with every fault of the section."""
    faults = check_call(target, section, path, tuple(extra))
    _raise_if(faults, f"cannot build {path}:")
    return target(**_with_tuples(plain(section)), **extra)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def _raise_if(faults: list[str], head: str) -> None:
    if faults:
        raise UserError("\n  ".join([head, *faults]))


def _about_key(path, error: OmegaConfBaseException) -> UserError:
    where = f"{path}: {error.full_key}" if error.full_key else path  # omegaconf 2.3 often leaves the key out
    return UserError(f"{where}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
