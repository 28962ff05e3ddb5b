"""Which of several processes this one is, by the environment that MindSpore's launcher (msrun) gives it."""

from __future__ import annotations

import os
from typing import NamedTuple

from gm.errors import UserError

_OWN = (
    "RANK_ID",
    "RANK_SIZE",
    "DEVICE_ID",
    "MS_ROLE",
    "MS_NODE_ID",
    "MS_WORKER_NUM",
    "MS_SCHED_HOST",
    "MS_SCHED_PORT",
    "MS_TOPO_TIMEOUT",
)
_VISIBLE = ("ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")  # of Ascend's library and of NVIDIA's


class Worker(NamedTuple):
    """One of `size` processes: rank of all, local of those on its server, both from 0. run: the same name for all."""

    rank: int
    size: int
    local: int
    run: str


def is_scheduler() -> bool:
    """Whether this process is the one beside the workers, by which they find each other."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def worker() -> Worker | None:
    """The `Worker` that this process is, or None where there is no launcher.

    Raises:
        UserError: several servers that were not told their numbers.
    """
    if os.environ.get("MS_ROLE") != "MS_WORKER":
        return None
    size, node = int(os.environ["MS_WORKER_NUM"]), os.environ.get("MS_NODE_ID")
    if node is None:
        raise UserError("msrun on several servers: give each of them its number, --node_rank=0 on the first")
    run = f"{os.environ.get('MS_SCHED_HOST')}:{os.environ.get('MS_SCHED_PORT')}"
    return Worker(int(node), size, int(os.environ.get("DEVICE_ID", 0)), run)


def alone(worker: Worker) -> dict[str, str]:
    """The environment for a process that works by itself on a worker's device: the only one that it sees."""
    left = {name: value for name, value in os.environ.items() if name not in _OWN}
    for name in _VISIBLE:
        seen = [one for one in os.environ.get(name, "").split(",") if one.strip()]
        if not seen or worker.local < len(seen):
            left[name] = seen[worker.local] if seen else str(worker.local)
    return left
