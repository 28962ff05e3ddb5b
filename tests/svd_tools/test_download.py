"""Downloading from a server on this machine that answers as the Hugging Face hub does, in good days and in bad ones."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from gm.checkpoint.published import REPOSITORIES
from gm.errors import UserError
from svd_tools import download as program

pytest.importorskip("huggingface_hub", reason="needs requirements-download.txt")

ROOT = Path(__file__).resolve().parents[2]
DATA = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
PLACE = f"/{REPOSITORIES['svd_xt']}/resolve/"


class Hub(BaseHTTPRequestHandler):
    """HEAD and GET of a file are redirected to storage on "another host", which sends it in parts if asked."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        state = self.server.state
        state.asked.append((self.command, self.path, dict(self.headers)))
        if self.path.startswith("/storage"):
            self.storage(state)
        elif not self.path.startswith(PLACE):
            self.refuse(404, "RepoNotFound")
        elif state.refusal is not None:
            self.refuse(*state.refusal)
        elif not self.path.endswith("/svd_xt.safetensors"):
            self.refuse(404, "EntryNotFound")
        else:
            self.send_response(302)
            for name, value in {
                "X-Repo-Commit": "a" * 40,
                "X-Linked-Etag": f'"{state.sha256}"',
                "X-Linked-Size": str(len(DATA)),
                "Location": f"http://localhost:{self.server.server_port}/storage",
                "Content-Length": "0",
            }.items():
                if name not in state.left_out:
                    self.send_header(name, value)
            self.end_headers()

    def refuse(self, status, code=None):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def storage(self, state):
        first = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Disposition", 'inline; filename="svd_xt.safetensors";')
        self.send_header("Content-Length", str(len(DATA) - first))
        self.end_headers()
        end = first + state.cuts.pop(0) if state.cuts else len(DATA)
        self.wfile.write(DATA[first:end])
        self.close_connection = True


State = namedtuple("State", "asked refusal left_out cuts sha256")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Start the server: a function of what is to be otherwise; returns the list of what it is asked."""
    import huggingface_hub.constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # 10 MB otherwise: more than DATA
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the library waits for seconds between its tries

    def behave(refusal=None, left_out=(), cuts=(), sha256=SHA256):
        server.state = State([], refusal, left_out, list(cuts), sha256)
        return server.state.asked

    yield behave
    server.shutdown()
    server.server_close()
    thread.join()


def gets(asked):
    return [headers.get("Range") for method, path, headers in asked if method == "GET" and path == "/storage"]


def only(folder):
    return [path.name for path in folder.iterdir()]


def test_a_file_is_fetched_checked_and_not_fetched_again(hub, tmp_path, capsys):
    asked, folder = hub(), tmp_path / "weights"
    assert program.main(["svd_xt", f"--checkpoints_dir={folder}"]) is None
    assert (folder / "svd_xt.safetensors").read_bytes() == DATA and only(folder) == ["svd_xt.safetensors"]
    assert gets(asked) == [None]
    told = capsys.readouterr()
    assert "--version=svd_xt" in told.out and "checking SHA-256: 100%" in told.err
    program.download("svd_xt", folder)
    assert gets(asked) == [None]


def test_a_token_goes_to_the_hub_and_not_to_its_storage(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked = hub()
    program.download("svd_xt", tmp_path)
    sent = {
        path.split("/")[1]: headers.get("authorization") or headers.get("Authorization") for _, path, headers in asked
    }
    assert sent == {"stabilityai": "Bearer hf_secret", "storage": None}


def test_a_connection_that_breaks_is_made_again_where_it_was(hub, tmp_path, capsys):
    asked = hub(cuts=[100_000, 50_000])
    program.download("svd_xt", tmp_path)
    assert (tmp_path / "svd_xt.safetensors").read_bytes() == DATA
    ranges = gets(asked)
    assert ranges[0] is None and ranges[-1] == "bytes=150000-" and len(ranges) == 3
    assert capsys.readouterr().err.count("going on") == 2


def test_a_program_that_was_stopped_goes_on_where_it_was(hub, tmp_path):
    asked = hub(cuts=[120_000, 0])  # then nothing comes any more
    with pytest.raises(UserError, match="connection broke.*goes on where it stopped.*HF_ENDPOINT"):
        program.download("svd_xt", tmp_path)
    assert not (tmp_path / "svd_xt.safetensors").exists()
    asked = hub()
    program.download("svd_xt", tmp_path)
    assert gets(asked) == ["bytes=120000-"] and (tmp_path / "svd_xt.safetensors").read_bytes() == DATA


def test_a_file_of_another_hash_is_not_kept(hub, tmp_path):
    hub(sha256="0" * 64)
    with pytest.raises(UserError, match="SHA-256.*damaged and was removed"):
        program.download("svd_xt", tmp_path)
    assert only(tmp_path) == []
    hub()
    assert program.download("svd_xt", tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("content", [DATA[:-1], DATA[:-1] + b"x"])
def test_another_file_of_that_name_is_left_alone(hub, tmp_path, content):
    asked = hub()
    (tmp_path / "svd_xt.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="not the hub's file: move it away"):
        program.download("svd_xt", tmp_path)
    assert (tmp_path / "svd_xt.safetensors").read_bytes() == content and gets(asked) == []


@pytest.mark.parametrize("refusal", [(401, "GatedRepo"), (403, "GatedRepo"), (401, None), (403, None)])
def test_a_gated_repository_without_and_with_a_token(hub, tmp_path, monkeypatch, refusal):
    hub(refusal)
    for token, words in ((None, "no token is set"), ("hf_old", "the token that is set was refused")):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError) as error:
            program.download("svd_xt", tmp_path)
        wanted = (
            words,
            str(refusal[0]),
            "accept the licence",
            f"huggingface.co/{REPOSITORIES['svd_xt']}",
            "settings/tokens",
            "hf auth login",
            "HF_TOKEN",
        )
        assert all(word in str(error.value) for word in wanted), error.value
        assert "hf_old" not in str(error.value)


@pytest.mark.parametrize(
    ("behaviour", "version", "words"),
    [
        ({"refusal": (404, "EntryNotFound")}, "svd_xt", "has no svd_xt.safetensors.*mirror"),
        ({}, "svd", "has no svd.s"),
        ({"refusal": (500, None)}, "svd_xt", "answered 500.*later"),
        ({"left_out": ("X-Linked-Etag",)}, "svd_xt", "no size and SHA-256.*login page"),
        ({"left_out": ("X-Repo-Commit",)}, "svd_xt", "no size and SHA-256.*proxy"),
    ],
)
def test_what_a_server_can_answer_else(hub, tmp_path, behaviour, version, words):
    hub(**behaviour)
    with pytest.raises(UserError, match=words):
        program.download(version, tmp_path)
    assert only(tmp_path) == []


def test_nobody_answers(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot reach http://127.0.0.1:9.*refused.*elsewhere and put it into"):
        program.download("svd_xt", tmp_path)


def test_too_little_room_is_seen_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    asked = hub(cuts=[200_000, 0])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 250_000))
    with pytest.raises(UserError, match="not enough disk space"):
        program.download("svd_xt", tmp_path)
    assert gets(asked) == []
    monkeypatch.undo()


def test_half_a_file_needs_only_the_other_half(hub, tmp_path, monkeypatch):
    hub(cuts=[200_000, 0])
    with pytest.raises(UserError, match="broke"):
        program.download("svd_xt", tmp_path)
    needed = []
    monkeypatch.setattr(program, "require_space", lambda _, size: needed.append(size))
    hub()
    program.download("svd_xt", tmp_path)
    assert needed == [100_000]


def test_a_folder_that_cannot_be(hub, tmp_path):
    hub()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        program.download("svd_xt", tmp_path / "file")


def run(*arguments, **environment):
    command = [sys.executable, str(ROOT / "svd_tools/download.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_offline(hub, tmp_path):
    hub()
    done = run("svd_xt", f"--checkpoints_dir={tmp_path}", HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and "HF_HUB_OFFLINE is set" in done.stderr and "Traceback" not in done.stderr


def test_as_a_program_on_a_terminal_it_shows_how_far_it_is(hub, tmp_path):
    hub()
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, str(ROOT / "svd_tools/download.py"), "svd_xt"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=terminal, env={**os.environ, "SVD_CHECKPOINTS": str(tmp_path)}
    )
    shown = os.read(master, 100_000).decode()
    os.close(terminal), os.close(master)
    assert done.returncode == 0, shown
    assert "svd_xt.safetensors: 100%" in shown and "checking SHA-256: 100%" in shown
    assert (tmp_path / "svd_xt.safetensors").read_bytes() == DATA


def test_without_the_library_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install -r requirements-download.txt"):
        program.download("svd_xt", tmp_path)
