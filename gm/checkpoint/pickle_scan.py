"""Read through a pickle without running it, and refuse what could take memory, time or the interpreter's stack.

A pickle is a program; even one that only builds dicts and tuples can be made so that it never ends or crashes Python.
What a checkpoint needs is little: named tensors, nested a few levels deep.
"""

from __future__ import annotations

import pickle
import pickletools
from typing import Any, Callable

# A training checkpoint of SVD with its optimizer's moments has about 300,000 operations, 8 levels deep.
MOST_OPERATIONS = 3_000_000
_DEEPEST = 100
# Integers beyond these can be chosen so that all fall into one place of a dict, which then takes time squared.
_SMALL_INTEGERS = {"BININT", "BININT1", "BININT2"}
_TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING", "UNICODE"}
_ATOMS = {"NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "LONG1", "GLOBAL", "EMPTY_DICT", "EMPTY_LIST"}
_CONTAINERS = {
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "EMPTY_TUPLE",
    "LIST",
    "REDUCE",
    "NEWOBJ",
    "BINPERSID",
    "STACK_GLOBAL",
}
_FILLERS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}
_PUTS = {"BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"}
_GETS = {"BINGET", "LONG_BINGET", "GET"}
_NOTHING = {"PROTO", "FRAME", "STOP"}
_KEY, _ATOM = 0, 1  # how deep a value is; 0 for what may be a key of a dict


def scan(data: bytes, permitted: Callable[[str, str], object]) -> None:
    """Go through the operations of a pickle.

    Args:
        data: its bytes.
        permitted: function of (module, name), called for every name that it asks for; raises what it likes.

    Raises:
        pickle.UnpicklingError: an operation that no checkpoint needs, too many of them, nested too deep, or keys of a
            dict that are neither text nor small integers. ValueError and others: it is broken.
    """
    machine = _Machine()
    for number, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if number > MOST_OPERATIONS:
            raise pickle.UnpicklingError(f"more than {MOST_OPERATIONS:,} operations")
        if operation.name == "GLOBAL":
            permitted(*str(argument).split(" ", 1))
        machine.do(operation, argument, number)


class _Machine:
    """The unpickler's stack and memo, with nothing on them but how deep each value is."""

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}

    def do(self, operation: pickletools.OpcodeInfo, argument: Any, number: int) -> None:
        name, stack = operation.name, self.stack
        if name in _PUTS:
            place = len(self.memo) if name == "MEMOIZE" else int(argument)
            if place > number:  # the unpickler's table would be as long as that
                raise pickle.UnpicklingError(f"a note number {place}")
            self.memo[place] = stack[-1]
        elif name in _GETS:
            stack.append(self.memo[int(argument)])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in _SMALL_INTEGERS or name in _TEXTS:
            stack.append(_KEY)
        elif name in _ATOMS:
            stack.append(_ATOM)
        elif name in _CONTAINERS:
            stack.append(_deeper(self.taken(operation)))
        elif name in _FILLERS:
            self.fill(operation)
        elif name not in _NOTHING:
            raise pickle.UnpicklingError(f"the operation {name}, which no checkpoint needs")

    def taken(self, operation: pickletools.OpcodeInfo) -> list[int]:
        """The values that an operation takes from the stack, in their order."""
        wanted = operation.stack_before
        if pickletools.markobject in wanted:
            first = self.marks.pop()
        else:
            first = len(self.stack) - len(wanted)
            if first < (self.marks[-1] if self.marks else 0):
                raise pickle.UnpicklingError("the stack is too short")
        values = self.stack[first:]
        del self.stack[first:]
        return values

    def fill(self, operation: pickletools.OpcodeInfo) -> None:
        """Put values into the dict or list below them."""
        values = self.taken(operation)
        container = self.stack.pop() if pickletools.markobject in operation.stack_before else values.pop(0)
        if operation.name.startswith("SETITEM") and any(value != _KEY for value in values[::2]):
            raise pickle.UnpicklingError("a key of a dict that is neither text nor a small number")
        self.stack.append(max(container, _deeper(values)))


def _deeper(values: list[int]) -> int:
    depth = 1 + max([_ATOM, *values])
    if depth > _DEEPEST:
        raise pickle.UnpicklingError(f"nested more than {_DEEPEST} deep")
    return depth
