"""Break the code in one line at a time and see that the tests turn red.

python benchmarks/mutations.py [--only=TEXT] [--output=docs/mutations.md]

Works on a copy of the files that git knows, as they are on disk. Of each change in mutations.yaml only the tests named
there are run, all of them from the default run, which must pass unchanged first. Exit status 1 if a change goes unseen.
It takes about 20 seconds for each change.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from jsonargparse import ArgumentParser
from omegaconf import OmegaConf
from tqdm import tqdm

from gm.errors import UserError, run_cli
from gm.files import atomic_path

ROOT = Path(__file__).resolve().parent.parent
CHANGES = Path(__file__).with_suffix(".yaml")
LIMIT = 900  # seconds of one run of tests; a change that never ends is seen


class Change(NamedTuple):
    """One line of a file, and the arguments of pytest that select the tests which should see it change."""

    file: str
    old: str
    new: str
    tests: str


def read_changes(path):
    """The `Change`s of a file like mutations.yaml. UserError for a line that is not in its file exactly once."""
    changes = [
        Change(group.file, change.old, change.new, group.tests) for group in OmegaConf.load(path)
        for change in group.changes
    ]
    for change in changes:
        count = (ROOT / change.file).read_text(encoding="utf-8").count(change.old)
        if count != 1 or change.old == change.new:
            raise UserError(f"{change.file}: {change.old!r} is in it {count} times, and must be once and change")
    return changes


def copy_tree(folder):
    """Copy what git knows, and what is new and not ignored, to a folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def failure(folder, tests):
    """Which test fails first, or None where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"no end in {LIMIT} s"
    if done.returncode == 0:
        return None
    if done.returncode not in (1, 2):  # 5: no test has been selected
        raise UserError(f"pytest {tests}: exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return found[1].split("/")[-1] if found else "not importable"


def try_change(folder, change):
    """The first test that sees the change, or None."""
    path = folder / change.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(change.old, change.new), encoding="utf-8")
    try:
        return failure(folder, change.tests)
    finally:
        path.write_text(text, encoding="utf-8")


def table(results):
    lines = ["| file | line | changed to | seen by |", "|---|---|---|---|"]
    for change, seen in results:
        cells = (change.file, f"`{change.old.strip()}`", f"`{change.new.strip()}`", seen or "**nothing**")
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only changes whose file or line holds this text")
    parser.add_argument("--output", default=None, help="Markdown file for the table")
    options = parser.parse_args(argv)
    changes = [c for c in read_changes(CHANGES) if options.only in c.file or options.only in c.old + c.new]
    if not changes:
        raise UserError(f"--only={options.only}: no change of that text in {CHANGES}")

    results, start = [], time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_tree(folder)
        for tests in tqdm(sorted({change.tests for change in changes}), desc="unchanged", unit="run", file=sys.stderr):
            seen = failure(folder, tests)
            if seen:
                raise UserError(f"pytest {tests}: {seen} fails without any change")
        for change in tqdm(changes, desc="changes", unit="change", file=sys.stderr):
            results.append((change, try_change(folder, change)))
            if results[-1][1] is None:
                tqdm.write(f"{change.file}: nothing sees {change.new.strip()!r}", file=sys.stderr)
    unseen = sum(seen is None for _, seen in results)
    summary = f"{len(results)} changes, {unseen} unseen, {time.monotonic() - start:.0f} s"
    print(f"{table(results)}\n\n{summary}")
    if options.output:
        with atomic_path(options.output) as path:
            Path(path).write_text(f"# Changes of one line that the tests see\n\n{table(results)}\n\n{summary}\n")
    return 1 if unseen else 0


if __name__ == "__main__":
    run_cli(main)
