"""What a config's section may say, read from the signature that it is meant for. Nothing is built or called here."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from omegaconf import OmegaConf

SEQUENCE = (list, tuple)
PLAIN_TYPES = {"str": str, "bool": bool, "None": type(None), "NoneType": type(None), "dict": dict, "Mapping": dict}
PLAIN_TYPES.update(dict.fromkeys(("tuple", "Tuple", "list", "List", "Sequence"), SEQUENCE))


def check_call(target: Callable, section, path: str, given: Sequence[str] = ()) -> list[str]:
    """Faults of calling `target(**section)`, `given` being supplied besides: unknown, missing, wrong plain type."""
    section = plain(section)
    if not isinstance(section, dict):
        return [f"{path}: expected a section, found {section!r}"]
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # an exception class, say
        return [f"{path}: {target.__name__} is not made to be built from a config"]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    faults = []
    for name, value in section.items():
        if name in given:
            faults.append(f"{path}: argument {name!r} is set by the program, remove it")
        elif name not in named:
            if not takes_any:
                faults.append(f"{path}: no argument {name!r}{hint(name, [n for n in named if n not in given])}")
        elif named[name].annotation is not inspect.Parameter.empty:
            text, node = syntax(named[name].annotation)
            if not fits(value, node):
                faults.append(f"{join(path, name)}: expected {text}, found {value!r}")
    missing = [n for n, p in named.items() if p.default is p.empty and n not in section and n not in given]
    return faults + [f"{path}: argument {name!r} is missing" for name in missing]


def syntax(annotation: Any) -> tuple[str, ast.expr]:
    """An annotation as text and as a syntax tree: Python 3.9 cannot evaluate `int | None`, but can read it."""
    is_class = isinstance(annotation, type) and not hasattr(annotation, "__origin__")
    text = annotation.__name__ if is_class else str(annotation).replace("typing.", "")
    try:
        return text, ast.parse(text, mode="eval").body
    except SyntaxError:  # such as a local class inside Optional[...]: not a plain type
        return text, ast.Name("object")


def fits(value: Any, node: ast.expr) -> bool:
    """Whether a YAML value fits an annotation; one that is not of plain types takes anything."""
    if isinstance(node, ast.BinOp):
        return fits(value, node.left) or fits(value, node.right)
    if isinstance(node, ast.Constant):
        return value is None if node.value is None else True
    head = node.value if isinstance(node, ast.Subscript) else node
    name = head.attr if isinstance(head, ast.Attribute) else getattr(head, "id", "")
    if not isinstance(node, ast.Subscript):
        if name in ("int", "float"):  # True is an int to Python, but not to the reader of a file
            return isinstance(value, (int, float) if name == "float" else int) and not isinstance(value, bool)
        return isinstance(value, PLAIN_TYPES.get(name, object))
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name in ("Optional", "Union"):
        return (name == "Optional" and value is None) or any(fits(value, item) for item in inner)
    if name == "Literal":
        return value in [ast.literal_eval(item) for item in inner]
    if PLAIN_TYPES.get(name) is not SEQUENCE or not isinstance(value, SEQUENCE):
        return fits(value, head)
    if name in ("tuple", "Tuple") and getattr(inner[-1], "value", None) is not ...:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return all(fits(item, inner[0]) for item in value)


def plain(value: Any) -> Any:
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    return dict(value) if isinstance(value, Mapping) else value


def join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def hint(name: Any, known) -> str:
    close = difflib.get_close_matches(str(name), [str(item) for item in known], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
