"""Signals end a program in one line, with nothing half-made, whatever it is doing."""

import os
import signal
import subprocess
import sys
import time

import pytest

from gm.ops import native
from gm.training.signals import StopOnSignal
from tests import signals
from tests.untrained import CONFIG

ROOT = CONFIG.parent.parent
PROGRAM = """
import sys, time
from pathlib import Path
from gm import interrupts
interrupts.catch()
from gm import errors, files
from gm.data import outputs

def main(argv):
    base = outputs.next_base(sys.argv[1], "x")
    with files.atomic_path(Path(sys.argv[1]) / "made.txt") as temporary:
        temporary.write_text("half")
        print("begun")
        BODY
    return 0

errors.run_cli(main)
"""
SLEEP = "time.sleep(60)"
SPIN = "exec('while True: pass')"


def run(command, **more):
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=signals.heed, **more
    )


def start(tmp_path, body):
    process = run([sys.executable, "-c", PROGRAM.replace("BODY", body), str(tmp_path)])
    assert process.stdout.readline() == "begun\n"
    assert len(os.listdir(tmp_path)) == 2  # the claim, and what is being made
    return process


def end(process):
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, errors


@pytest.mark.parametrize("body", ["time.sleep(2)", f"interrupts.use({native.library()!r}); time.sleep(2)"])
def test_stopped_and_continued_it_goes_on(tmp_path, body):
    """As by Ctrl-Z and `fg`. CPython's sigtimedwait, interrupted by that, makes up a signal."""
    process = start(tmp_path, body if native.library() else "time.sleep(2)")
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.2)
    process.send_signal(signal.SIGCONT)
    assert end(process) == (0, "")
    assert (tmp_path / "made.txt").read_text() == "half"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_one_line_the_shells_status_and_nothing_left(tmp_path, number, status):
    process = start(tmp_path, SLEEP)
    process.send_signal(number)
    assert end(process) == (status, "\ninterrupted\n")
    assert os.listdir(tmp_path) == []


def test_while_python_is_busy(tmp_path):
    process = start(tmp_path, SPIN)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "\ninterrupted\n")


def test_what_the_main_thread_was_doing_fails_without_another_word(tmp_path):
    """Its files are taken away under its hands."""
    process = start(tmp_path, "exec('while True: temporary.read_text()')")
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, "\ninterrupted\n")


HOLDING_THE_LOCK = """
import ctypes, sys
from gm import interrupts
interrupts.catch()
interrupts.use(sys.argv[1])
interrupts.finish_first(len(sys.argv) > 2)
import time; time.sleep(1.5)
print("begun", flush=True)
ctypes.PyDLL(None).sleep(12)
time.sleep(5)  # not at its end yet when the lock is free
"""


@pytest.mark.slow
@pytest.mark.skipif(native.library() is None, reason="no compiler here")
@pytest.mark.parametrize(("more", "seconds"), [((), (2.5, 9)), (("unsaved steps",), (9, 60))])
def test_while_a_library_keeps_pythons_lock(more, seconds):
    """As MindSpore does while it compiles; but what is not saved yet is waited for."""
    command = [sys.executable, "-c", HOLDING_THE_LOCK, native.library(), *more]
    process = run(command)
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "\ninterrupted\n")
    assert seconds[0] < time.monotonic() - sent < seconds[1]


def test_little_is_imported_before_signals_are_caught():
    """Until then Ctrl-C is a traceback."""
    script = "import sys; known = {*sys.modules}; from gm import interrupts; print(*sorted({*sys.modules} - known))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "gm.interrupts" in loaded and not loaded & {"ctypes", "email", "importlib.metadata", "numpy", "zipfile"}
    assert len(loaded) < 40, loaded


def test_nohup_stays_in_force(tmp_path):
    ignore = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    )
    program = PROGRAM.replace("BODY", "sys.stdin.readline()")
    command = [sys.executable, "-c", ignore, sys.executable, "-c", program, str(tmp_path)]
    process = run(command, stdin=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    process.communicate("\n", timeout=20)
    assert process.returncode == 0 and os.listdir(tmp_path) == ["made.txt"]


def test_a_child_that_writes_ends_too(tmp_path):
    body = (
        "import threading; from gm.data import videos; threading.Timer(0.5, lambda: print('child')).start(); "
        "videos._run([sys.executable, '-c', 'import time; time.sleep(77)'], b'', 60)"
    )
    process = start(tmp_path, body)
    assert process.stdout.readline() == "child\n"
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 143
    time.sleep(0.1)
    assert "sleep(77)" not in subprocess.run(["ps", "-ef"], capture_output=True, text=True).stdout


def test_training_is_asked_to_stop_once_and_ended_by_a_later_signal(monkeypatch, capfd):
    clock = [100.0]
    monkeypatch.setattr("gm.training.signals.time.monotonic", lambda: clock[0])
    stop = StopOnSignal()
    assert not stop._note(signal.SIGTERM) and not stop.requested  # nothing would be lost
    stop.unsaved = True
    assert stop._note(signal.SIGHUP) and stop.number == signal.SIGHUP
    assert "saved first" in capfd.readouterr().err
    clock[0] += 0.02
    assert stop._note(signal.SIGTERM) and stop.number == signal.SIGHUP  # sent along with the first
    clock[0] += 1
    assert not stop._note(signal.SIGTERM)


@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.5, 2.5, 5])
@pytest.mark.parametrize("program", ["image_to_video.py", "train.py", "svd_tools/verify.py"])
@pytest.mark.slow
def test_programs_while_they_start(tmp_path, program, seconds):
    command = {
        "image_to_video.py": ["--image=assets/demo.png", f"--output_dir={tmp_path}"],
        "train.py": ["--train.dataset.init_args.data_dir=x", f"--train.output_dir={tmp_path}", "--dry_run"],
        "svd_tools/verify.py": [],
    }[program]
    process = run([sys.executable, program, *command])
    time.sleep(seconds)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    if process.returncode != 1:  # train.py may have found its fault before
        assert process.returncode == 130, errors
        assert errors.endswith("\ninterrupted\n") and "Traceback" not in errors + output
    assert time.monotonic() - sent < 5
    assert os.listdir(tmp_path) == []
