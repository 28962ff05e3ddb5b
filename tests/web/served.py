"""The page's server for tests and screenshots, and a browser to look at it with."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 240  # seconds, on a machine with other work


def browser_path():
    """Of an installed Chromium, or None."""
    return os.environ.get("SVD_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)


class Server:
    """`streamlit run app.py` on a free port. options: of app.py; outputs: for its results; what it says is in `log`."""

    def __init__(self, folder, *options, outputs=None):
        self.folder, self.log = Path(folder), Path(folder) / "server.log"
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://localhost:{self.port}"
        self.outputs = outputs or self.folder / "outputs"
        temporary = self.folder / "temporary"
        temporary.mkdir(exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "streamlit",
            "run",
            "app.py",
            f"--server.port={self.port}",
            "--",
            f"--output_dir={self.outputs}",
            "--device_target=CPU",
            *options,
        ]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": str(temporary)},
            )
        self._wait()

    def _wait(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/_stcore/health") as answer:
                if answer.status == 200:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise RuntimeError(f"no server: {self.log.read_text()}")

    def children(self):
        """Process numbers of the model's processes."""
        listing = ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)]
        found = subprocess.run(listing, capture_output=True, text=True)
        return [int(line.split()[0]) for line in found.stdout.splitlines() if "gm.web.worker" in line]

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def browser():
    """A headless Chromium of playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


def open_page(chromium, server, **options):
    """A session of its own, its inputs drawn."""
    context = chromium.new_context(**{"viewport": {"width": 1360, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(server.url)
    page.get_by_role("button", name="Sample").wait_for()
    return page


def settled(page):
    """Wait until the page has been drawn anew."""
    page.wait_for_timeout(300)
    page.wait_for_function("() => !document.querySelector('[data-testid=stStatusWidget]')")


def send(page, name, content, uploader=0):
    """Give a file's bytes to an uploader, the picture's or (1) the end picture's, under any name. A page that is drawn
    anew at that moment loses it."""
    shown = page.get_by_text(Path(name).name).first
    settled(page)
    for attempt in range(10):
        page.locator('[data-testid="stFileUploader"] input[type="file"]').nth(uploader).set_input_files(
            {"name": name, "mimeType": "image/png", "buffer": content}
        )
        if in_time(shown.wait_for, attempt):
            break
    settled(page)


def in_time(wait, attempt, attempts=10):
    """Whether wait(timeout=…) ends in ten seconds; the last of the attempts has the usual time, and fails."""
    from playwright.sync_api import TimeoutError

    try:
        wait(timeout=10_000 if attempt < attempts - 1 else 1000 * PATIENCE)
    except TimeoutError:
        if attempt == attempts - 1:
            raise
        return False
    return True
