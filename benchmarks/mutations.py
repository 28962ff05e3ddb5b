"""Break the code in one line at a time and see that the tests turn red.

python benchmarks/mutations.py [--only=TEXT] [--output=docs/mutations.md]

Works on a copy of the files that git knows, as they are on disk. Of each change in mutations.yaml only the tests named
there are run, all of them from the default run, which must pass unchanged first. Exit status 1 if a change goes unseen.
Killed, it goes on where it was, as long as no file has changed but documents.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
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

import pytest
from forks import Fork, import_libraries
from jsonargparse import ArgumentParser
from omegaconf import OmegaConf
from tqdm import tqdm

from gm.errors import UserError, run_cli
from gm.files import atomic_path

ROOT = Path(__file__).resolve().parent.parent
CHANGES = Path(__file__).with_suffix(".yaml")
HEAD = """# Changes of one line that the tests see

Written by `python benchmarks/mutations.py --output=docs/mutations.md`, which makes one change at a time to a copy
of the code and runs the tests that should see it, all of them part of `make test`: the first that fails is named.
"""
LIMIT = 900  # seconds of one run of tests; a change that never ends is seen


class Change(NamedTuple):
    """One line of a file, and the arguments of pytest that select the tests which should see it change."""

    file: str
    old: str
    new: str
    tests: str


def read_changes(path):
    """The `Change`s of a file like mutations.yaml. UserError that names the lines not in their files exactly once."""
    changes = [
        Change(group.file, change.old, change.new, group.tests)
        for group in OmegaConf.load(path)
        for change in group.changes
    ]
    texts = {change.file: (ROOT / change.file).read_text(encoding="utf-8") for change in changes}
    faults = [
        f"{change.file}: {change.old!r}"
        for change in changes
        if texts[change.file].count(change.old) != 1 or change.old == change.new
    ]
    if faults:
        raise UserError("\n  ".join([f"{path}: not in their file exactly once, or not changed:", *faults]))
    return changes


def copy_tree(folder):
    """Copy what git knows, and what is new and not ignored, to a folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


class Found:
    """What was found about a tree of files, kept in build/ so that a run that was killed goes on."""

    def __init__(self, folder):
        digest = hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)} {len(content)} ".encode() + content)
        self.path = ROOT / "build" / f"mutations-{digest.hexdigest()[:16]}.jsonl"
        self.path.parent.mkdir(exist_ok=True)
        self._known = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            with contextlib.suppress(ValueError):  # cut off where the run was killed
                key, seen = json.loads(line)
                self._known[tuple(key)] = seen

    def get(self, key, function):
        """function() for a key, a tuple of texts, or what it returned when it was asked for before."""
        if key not in self._known:
            self._known[key] = function()
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("\n" + json.dumps([key, self._known[key]]))
        return self._known[key]


def failure(folder, tests):
    """Which test fails first, or None where all pass."""
    fork = Fork(lambda: _pytest(folder, tests), folder / ".tests.log", folder)
    if not fork.wait(LIMIT):
        return f"no end in {LIMIT} s"
    if fork.returncode == 0:
        return None
    if fork.returncode not in (1, 2):  # a crash, or 5: no test has been selected
        raise UserError(f"pytest {tests}: exit status {fork.returncode}\n{fork.text()[-2000:]}")
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", fork.text(), re.MULTILINE)
    return found[1].split("/")[-1] if found else "not importable"


def _pytest(folder, tests):
    sys.dont_write_bytecode = True  # pytest puts the folder first into the path of imports (pyproject.toml)
    os.environ["PYTHONPATH"] = str(folder)  # of programs that tests start
    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)])


def require_passing(folder, tests):
    seen = failure(folder, tests)
    if seen:
        raise UserError(f"pytest {tests}: {seen} fails without any change")


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

    import_libraries()
    results, start = [], time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_tree(folder)
        found = Found(folder)
        for tests in tqdm(sorted({change.tests for change in changes}), desc="unchanged", unit="run", file=sys.stderr):
            found.get((tests,), lambda tests=tests: require_passing(folder, tests))
        for change in tqdm(changes, desc="changes", unit="change", file=sys.stderr):
            seen = found.get(tuple(change), lambda change=change: try_change(folder, change))
            results.append((change, seen))
            tqdm.write(f"{change.file}: {change.new.strip()!r} is seen by {seen or 'NOTHING'}", file=sys.stderr)
    unseen = sum(seen is None for _, seen in results)
    summary = f"{len(results)} changes, {unseen} unseen, {time.monotonic() - start:.0f} s"
    print(f"{table(results)}\n\n{summary}")
    if options.output:
        with atomic_path(options.output) as path:
            Path(path).write_text(f"{HEAD}\n{summary}\n\n{table(results)}\n")
    return 1 if unseen else 0


if __name__ == "__main__":
    run_cli(main)
