"""Takes the pictures in docs/web: `python -m tests.web.shots`, with requirements-test-web.txt and a Chromium.

Videos are stopped at the same frame, so that two runs give nearly the same pictures.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from tests.web.served import ROOT, Server, browser, open_page

_PAUSED = """() => document.querySelectorAll('video').forEach(video => {
    video.pause(); video.currentTime = video.duration / 2; })"""
_WIDTH = 1000  # pixels of the pictures that are kept, but for the phone's


def keep(page, name, folder, width=_WIDTH):
    page.evaluate(_PAUSED)
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    if shot.width > width:
        shot = shot.resize((width, round(shot.height * width / shot.width)), Image.Resampling.LANCZOS)
    shot.save(folder / f"{name}.jpg", quality=88)
    print(folder / f"{name}.jpg", f"{(folder / f'{name}.jpg').stat().st_size / 1000:.0f} kB")


def press(page, name):
    page.get_by_role("button", name=name).first.click()


def see(page, view):
    page.get_by_text(view, exact=True).first.click()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "docs" / "web")
    folder = parser.parse_args().output_dir
    with tempfile.TemporaryDirectory() as place, browser() as chromium:
        outputs = ROOT / "outputs" / "page"  # whose name is in the pictures
        if outputs.exists():
            raise SystemExit(f"{outputs} is there already: move it away")
        server = Server(place, "--mode=1", outputs=outputs)
        try:
            page = open_page(chromium, server)
            page.wait_for_timeout(3000)
            steps = page.get_by_role("spinbutton", name="Steps", exact=True)
            steps.fill("8")
            steps.press("Enter")
            page.wait_for_timeout(2000)
            press(page, "Sample")
            page.get_by_text(re.compile("step [3-6] of 8.*left")).wait_for()
            keep(page, "sampling", folder)
            page.locator("video").wait_for()
            page.get_by_text("All frames").wait_for()
            keep(page, "done", folder)
            see(page, "Motion sweep")
            press(page, "Sweep")
            page.get_by_text("Both by the scale").wait_for()
            keep(page, "sweep", folder)
            see(page, "Gallery")
            page.get_by_text("demo 003").wait_for()
            keep(page, "gallery", folder)
            phone = open_page(
                chromium, server, viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=1.5
            )
            keep(phone, "phone", folder, 390)
        finally:
            server.close()
            shutil.rmtree(outputs, ignore_errors=True)


if __name__ == "__main__":
    main()
