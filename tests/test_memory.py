"""Sizes as users write them, a machine's memory from files made for the test, and attention under any budget."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from gm import memory, ops
from gm.errors import UserError
from gm.ops import reference, table
from tests.near import difference


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("8GiB", 2**33),
        ("500MB", 5 * 10**8),
        ("1.5kib", 1536),
        (" 2 tb ", 2 * 10**12),
        ("7", 7),
        ("12B", 12),
        ("1" + 400 * "0", 10**400),
    ],
)
def test_sizes(text, size):
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "8XB", "-1GB", "8 G B", "0", "0.1B", "nan", "8iB", "1e9"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(UserError, match=f"memory size '{text}'.*8GB"):
        memory.parse_size(text)


@pytest.mark.parametrize(
    ("budget", "scores"),
    [
        (1, 2**16),
        (2**22, 2**16),
        (2**23, 2**17),
        (2**32 - 1, 2**25),
        (2**32, 2**26),
        (2**33, 2**27),
        (2**60, 2**28),
    ],
)
def test_scores_are_a_sixteenth_of_the_budget_within_limits(budget, scores):
    assert memory.attention_scores(budget) == scores


@pytest.fixture
def scores(monkeypatch):
    """Put back what a test sets through `ops.set_memory_budget`."""
    monkeypatch.setattr(reference, "MAX_SCORES", reference.MAX_SCORES)
    return monkeypatch


@pytest.mark.parametrize(("left", "found"), [(2**40, 2**26), (2**31, 2**25), (None, 2**26)])
def test_default_is_what_the_machine_has_left_and_no_more_than_usual(scores, left, found):
    scores.setattr(ops, "available_memory", lambda: left)
    assert ops.set_memory_budget() == reference.MAX_SCORES == found


def test_other_devices_keep_the_usual_unless_told(scores):
    scores.setattr(ops, "available_memory", lambda: 0)
    scores.setattr(ops, "device", lambda: "Ascend")
    assert ops.set_memory_budget() == 2**26
    assert ops.set_memory_budget(2**34) == 2**28


class Attention(nn.Cell):
    """Attention by the plain form, which works in pieces on every device."""

    def construct(self, x):
        return reference.attention(x, x, x, 2)


class AttentionOverPixels(nn.Cell):
    def construct(self, x):
        return table.cpu.attention_over_pixels(x, x, x)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize("cell", [Attention, AttentionOverPixels])
def test_attention_does_not_depend_on_the_budget(scores, mode, cell):
    """Also that graph mode takes the budget at the time when a cell is compiled, not that of an earlier one."""
    ms.set_context(mode=mode)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 640, 640)).astype(np.float32))
    plenty, little = cell(), cell()
    assert ops.set_memory_budget(2**34) == 2**28
    whole = plenty(x).asnumpy()
    assert ops.set_memory_budget(1) == 2**16
    pieces = little(x).asnumpy()
    assert difference(pieces, whole) < 2e-6
    if mode == ms.GRAPH_MODE:
        assert products(little) >= 7 * products(plenty)  # 102 of 640 queries at a time


def products(cell):
    """How often a compiled cell's graph names a matrix product."""
    return cell.get_func_graph_proto().count(b"BatchMatMul")
