"""Memory and processors that are left to a process, from files made for the test."""

import os

import pytest

from gm import system


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


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 1024000),
        ({**GROUP_V2, f"{V2}/a/b/memory.max": "max\n", f"{V2}/a/b/memory.current": "5000\n"}, 1024000),
        (
            {
                **GROUP_V2,
                f"{V2}/a/b/memory.max": "9000\n",
                f"{V2}/a/b/memory.current": "5000\n",
                f"{V2}/a/b/memory.stat": "anon 4\ninactive_file 700\n",
            },
            4700,
        ),
        ({**GROUP_V2, f"{V2}/a/memory.max": "300\n", f"{V2}/a/memory.current": "500\n"}, 0),
        (
            {**GROUP_V2, f"{V2}/memory.max": "300\n", f"{V2}/memory.current": "100\n"},
            200,
        ),  # a container sees its top alone
        (
            {
                **GROUP_V1,
                f"{V1}/a/b/memory.limit_in_bytes": "9223372036854771712\n",
                f"{V1}/a/b/memory.usage_in_bytes": "5\n",
            },
            1024000,
        ),
        (
            {
                **GROUP_V1,
                f"{V1}/a/memory.limit_in_bytes": "8000\n",
                f"{V1}/a/memory.usage_in_bytes": "5000\n",
                f"{V1}/a/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
            },
            3050,
        ),
    ],
)
def test_memory_that_is_left_in_machine_and_control_groups(tmp_path, files, left):
    assert system.available_memory(write(tmp_path, **files)) == left


def test_a_system_that_does_not_say(tmp_path):
    assert system.available_memory(tmp_path) is None


def test_a_limit_of_addresses_counts_too(tmp_path):
    limits = "Limit  Soft Limit  Hard Limit  Units\nMax address space         900000          unlimited  bytes\n"
    files = {"proc/self/limits": limits, "proc/self/status": "VmSize:\t     100 kB\nRssAnon:\t      30 kB\n"}
    assert system.available_memory(write(tmp_path, **files)) == 900000 - 102400
    assert system.resident_memory(tmp_path) == 30720
    files["proc/self/limits"] = limits.replace("900000", "unlimited")
    assert system.available_memory(write(tmp_path, **files)) == 1024000


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, 64),
        ({**GROUP_V2, f"{V2}/a/b/cpu.max": "max 100000\n"}, 64),
        ({**GROUP_V2, f"{V2}/a/b/cpu.max": "250000 100000\n"}, 3),
        ({**GROUP_V2, f"{V2}/a/b/cpu.max": "max 100000\n", f"{V2}/a/cpu.max": "10000 100000\n"}, 1),
        (
            {
                **GROUP_V1,
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "50000\n",
            },
            4,
        ),
        (
            {
                **GROUP_V1,
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            64,
        ),
    ],
)
def test_processors_of_control_groups(tmp_path, monkeypatch, files, most):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert system.processors(write(tmp_path, **files)) == most


@pytest.mark.parametrize(("asked", "most"), [("", 64), ("0", 64), ("many", 64), ("3", 3), ("5,2", 5), ("200", 64)])
def test_processors_that_openmp_is_told_of(tmp_path, monkeypatch, asked, most):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert system.processors(tmp_path) == most
