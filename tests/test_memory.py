"""Sizes as users write them, a machine's memory from files made for the test, and attention under any budget."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from gm import memory, ops
from gm.errors import UserError
from gm.ops import reference, table
from tests.near import difference


@pytest.mark.parametrize(("text", "size"), [
    ("8GB", 8 * 10**9), ("8GiB", 2**33), ("500MB", 5 * 10**8), ("1.5kib", 1536), (" 2 tb ", 2 * 10**12), ("7", 7),
    ("12B", 12), ("1" + 400 * "0", 10**400),
])
def test_sizes(text, size):
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "8XB", "-1GB", "8 G B", "0", "0.1B", "nan", "8iB", "1e9"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(UserError, match=f"memory size '{text}'.*8GB"):
        memory.parse_size(text)


@pytest.mark.parametrize(("budget", "scores"), [
    (1, 2**16), (2**22, 2**16), (2**23, 2**17), (2**32 - 1, 2**25), (2**32, 2**26), (2**33, 2**27), (2**60, 2**28),
])
def test_scores_are_a_sixteenth_of_the_budget_within_limits(budget, scores):
    assert memory.attention_scores(budget) == scores


def write(root, **files):
    for name, text in {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable: 1000 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "sys/fs/cgroup/memory"
V2 = "sys/fs/cgroup"
GROUP_V1 = {"proc/self/cgroup": "5:cpu,memory:/a/b\n0::/\n"}
GROUP_V2 = {"proc/self/cgroup": "0::/a/b\n"}


@pytest.mark.parametrize(("files", "left"), [
    ({}, 1024000),
    ({**GROUP_V2, f"{V2}/a/b/memory.max": "max\n", f"{V2}/a/b/memory.current": "5000\n"}, 1024000),
    ({**GROUP_V2, f"{V2}/a/b/memory.max": "9000\n", f"{V2}/a/b/memory.current": "5000\n",
      f"{V2}/a/b/memory.stat": "anon 4\ninactive_file 700\n"}, 4700),
    ({**GROUP_V2, f"{V2}/a/memory.max": "300\n", f"{V2}/a/memory.current": "500\n"}, 0),
    ({**GROUP_V2, f"{V2}/memory.max": "300\n", f"{V2}/memory.current": "100\n"}, 200),  # a container sees its top alone
    ({**GROUP_V1, f"{V1}/a/b/memory.limit_in_bytes": "9223372036854771712\n",
      f"{V1}/a/b/memory.usage_in_bytes": "5\n"}, 1024000),
    ({**GROUP_V1, f"{V1}/a/memory.limit_in_bytes": "8000\n", f"{V1}/a/memory.usage_in_bytes": "5000\n",
      f"{V1}/a/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n"}, 3050),
])
def test_memory_that_is_left_in_machine_and_control_groups(tmp_path, files, left):
    assert memory.available_memory(write(tmp_path, **files)) == left


def test_a_system_that_does_not_say(tmp_path):
    assert memory.available_memory(tmp_path) is None


def test_a_limit_of_addresses_counts_too(tmp_path):
    limits = "Limit  Soft Limit  Hard Limit  Units\nMax address space         900000          unlimited  bytes\n"
    files = {"proc/self/limits": limits, "proc/self/status": "VmSize:\t     100 kB\nRssAnon:\t      30 kB\n"}
    assert memory.available_memory(write(tmp_path, **files)) == 900000 - 102400
    assert memory.resident_memory(tmp_path) == 30720
    files["proc/self/limits"] = limits.replace("900000", "unlimited")
    assert memory.available_memory(write(tmp_path, **files)) == 1024000


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
