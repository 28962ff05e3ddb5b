"""Trained parameters in parts."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor

from gm.training import parts as module
from gm.training.parts import parts


@pytest.fixture(autouse=True)
def ten_values_are_a_part(monkeypatch):
    monkeypatch.setattr(module, "_VALUES", 10)


def make(sizes, prefix="p"):
    return [Parameter(Tensor(np.zeros(n, np.float32)), name=f"{prefix}{i}") for i, n in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1, 2, 3], [[1, 2, 3]]),
        ([10, 10], [[10], [10]]),
        ([10, 5, 5], [[10], [5, 5]]),
        ([9, 160, 4, 5], [[9, 160], [4, 5]]),  # one that is larger than a part
        ([], []),
    ],
)
def test_neighbours_with_about_as_many_values(sizes, expected):
    assert [[p.size for p in part] for (part,) in parts(make(sizes))] == expected


def test_there_are_no_more_than_eight():
    found = [sum(p.size for p in part) for (part,) in parts(make([10] * 30))]
    assert len(found) == 8 and sum(found) == 300 and max(found) == 40


def test_what_belongs_together_stays_together():
    weights, sums = make([10] * 3, "w"), make([10] * 3, "s")
    found = parts(weights, sums)
    assert [[p.name for p in part] for part, _ in found] == [[p.name] for p in weights]
    for place, (_, own) in enumerate(found):
        assert len(own) == 1 and own[0] is sums[place]
