"""Two people use the page in turn, and the memory of its processes is printed: `python -m tests.web.endurance`.

Every other round is a new picture or is cancelled. Memory is the resident one without pages of files, in megabytes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import TimeoutError

from tests.web.served import Server, browser, open_page, send


def memory(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def give(page, label, value):
    box = page.get_by_role("spinbutton", name=label, exact=True).last  # two for a moment, while the page is drawn anew
    while box.input_value() != str(value):  # a page that is drawn anew meanwhile puts the old value back
        box.fill(str(value))
        box.press("Enter")
        page.wait_for_timeout(1000)


def upload(page, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (1200, 1600, 3)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    send(page, f"noise{seed}.png", content.getvalue())


def use(page, number):
    """One round: a picture, or another seed; a video, or one that is cancelled."""
    if number % 4 == 2:
        upload(page, number)
    give(page, "Seed", number)
    page.get_by_role("button", name="Sample").first.click()
    if number % 4 == 3:
        page.get_by_text("What it is becoming").wait_for()
        with contextlib.suppress(TimeoutError):  # it may be done by then
            page.get_by_role("button", name="Cancel").click(timeout=5000)
        page.get_by_text("Cancelled").or_(page.get_by_text(f"seed {number},")).first.wait_for()
    else:
        page.get_by_text(f"seed {number},").wait_for()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as place, browser() as chromium:
        server = Server(place)  # in graph mode: in PyNative MindSpore keeps about 240 bytes for each operator called
        try:
            pages = [open_page(chromium, server) for _ in range(2)]
            for page in pages:
                give(page, "Frames", 4)
                give(page, "Steps", 4)
            begun, number = time.monotonic(), 0
            while time.monotonic() - begun < 60 * minutes:
                number += 1
                use(pages[number % 2], number)
                (worker,) = server.children()
                print(
                    f"{(time.monotonic() - begun) / 60:5.1f} min, round {number}: page "
                    f"{memory(server.process.pid):.0f} MB, model {memory(worker):.0f} MB",
                    flush=True,
                )
        finally:
            server.close()


if __name__ == "__main__":
    main()
