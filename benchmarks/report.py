"""What the benchmarks share: checks of their options, and the file that they write, which says what was measured, when,
and on what; benchmarks/results/ keeps some of them."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

from gm.console import versions
from gm.data.outputs import write_json
from gm.errors import UserError
from gm.system import processors


def check_known(option, named, known):
    """UserError unless `named`, the list given to an option, has one name or more, all of them of `known`."""
    unknown = [name for name in named if name not in known]
    if unknown or not named:
        raise UserError(f"{option} {unknown}: choose from {', '.join(known)}")


def check_count(option, count):
    """UserError for less than one."""
    if count < 1:
        raise UserError(f"{option} {count}: must be 1 or more")


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
