"""The file that a benchmark writes: what it measured, when, and on what; benchmarks/results/ keeps some of them."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

from gm.console import versions
from gm.data.outputs import write_json
from gm.system import processors


def write_report(rows, path, **more):
    """JSON {"date", "machine", "versions", "rows", more}; rows: of dicts."""
    machine = {"processor": _processor(), "cores": processors()}
    about = {"date": datetime.date.today().isoformat(), "machine": machine, "versions": versions()}
    write_json({**about, **more, "rows": rows}, path)


def _processor():
    """The processor's name, which only Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
