"""Trained parameters in parts, each for a graph of its own that goes over all of its parameters.

MindSpore's back end computes what needs no other result first: in one graph the products of all gradients with the
factor of clipping, for example, before the first is used. And compiling takes memory that grows faster than the graph:
for 738 weights of 30 million values the optimizer's graphs of plain operators took 0.6 GB and 31 s as one part, 0.26 GB
and 13 s as eight. With a single operator for each part (`gm.ops.adamw` on CPUs) they take 4 s.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Parameter, ParameterTuple

_PARTS = 8
_VALUES = 2**20  # in a part at least: 4 MB are not worth a graph


def parts(parameters: Sequence[Parameter], *more: Sequence[Parameter]) -> list[tuple[ParameterTuple, ...]]:
    """Parts with about as many values each, in the order of the parameters: of each part its parameters and, of every
    other sequence, which is as long, what stands in the same places."""
    total = sum(p.size for p in parameters)
    number = max(1, min(_PARTS, total // _VALUES))
    found: list[list[tuple[Parameter, ...]]] = [[] for _ in range(number)]
    before = 0
    for group in zip(parameters, *more):
        found[before * number // total].append(group)
        before += group[0].size
    return [tuple(ParameterTuple(list(column)) for column in zip(*part)) for part in found if part]
