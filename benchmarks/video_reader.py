"""Speed of reading videos, ours against decord and OpenCV: clips of 14 frames from random places, and whole files.

pip install decord==0.6.0 "numpy<2"   # the last release (2021), for x86-64 alone
python benchmarks/video_reader.py --output=outputs/video_reader.json

Each reader has one thread. Processor seconds, not time on the clock, and how many times OpenCV's they are.
decord and OpenCV are measured as they come; that their frames may be the wrong ones is not counted against them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import decord
import imageio_ffmpeg
import numpy as np
from jsonargparse import ArgumentParser
from tqdm import tqdm

from gm.data.video_reader import open_video
from gm.errors import run_cli

FRAMES, STEP, SECONDS, FPS = 14, 4, 4, 30
X264 = ["-c:v", "libx264", "-preset", "fast", "-pix_fmt", "yuv420p"]
FILES = {
    "576p H.264, mp4": ("1024x576", "mp4", [*X264, "-g", "60"]),
    "576p H.264, one group": ("1024x576", "mp4", X264),
    "1080p H.264, mp4": ("1920x1080", "mp4", [*X264, "-g", "60"]),
    "576p VP9, webm": ("1024x576", "webm", ["-c:v", "libvpx-vp9", "-cpu-used", "8", "-b:v", "3M"]),
}


def make(path, size, options):
    """A drawn video with grain, which makes it about as hard to decode as what a camera films."""
    source = f"testsrc2=size={size}:rate={FPS}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "lavfi", "-i", source]
    subprocess.run(
        [*command, "-t", str(SECONDS), "-vf", "noise=alls=4:allf=t", *options, str(path)], check=True, env=os.environ
    )


class Ours:
    def __init__(self, path, folder=None):
        self.video = open_video(path, index_folder=folder)
        self.length = self.video.length

    def read(self, indices):
        return self.video.frames(indices)


class Decord:
    def __init__(self, path, _):
        self.video = decord.VideoReader(str(path), num_threads=1)
        self.length = len(self.video)

    def read(self, indices):
        return self.video.get_batch(list(indices)).asnumpy()


class OpenCV:
    def __init__(self, path, _):
        self.video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        self.length, self.next = int(self.video.get(cv2.CAP_PROP_FRAME_COUNT)), 0

    def read(self, indices):
        """One seek, as OpenCV does it, unless it is there already; the frames between are skipped."""
        if indices[0] != self.next:
            self.video.set(cv2.CAP_PROP_POS_FRAMES, indices[0])
        wanted, frames = set(indices), []
        for index in range(indices[0], indices[-1] + 1):
            if index in wanted:
                frames.append(cv2.cvtColor(self.video.read()[1], cv2.COLOR_BGR2RGB))
            else:
                self.video.grab()
        self.next = indices[-1] + 1
        return np.stack(frames)


READERS = {"ours": Ours, "ours, index kept": Ours, "decord": Decord, "OpenCV": OpenCV}


def works(kind, path, folder, clips):
    """{what: (function, by what its time is divided)}: clips, opening the file included; all of it by eight frames."""
    span = (FRAMES - 1) * STEP + 1

    def some_clips():
        random = np.random.default_rng(0)
        for _ in range(clips):
            video = kind(path, folder)
            start = int(random.integers(video.length - span))
            video.read(range(start, start + span, STEP))

    def whole():
        video = kind(path, folder)
        for start in range(0, video.length - 8, 8):
            video.read(range(start, start + 8))

    return {"one clip of 14": (some_clips, clips), "whole file": (whole, 1)}


def measure(path, folder, clips, times):
    """{reader: {what: processor seconds}}. The readers take turns, and the least of several times counts: what else the
    machine does only adds."""
    found = {}
    for turn in range(times + 1):
        for reader, kind in READERS.items():
            for what, (work, share) in works(kind, path, folder if "kept" in reader else None, clips).items():
                start = time.process_time()
                work()
                if turn:  # the first one warms up
                    found.setdefault(reader, {}).setdefault(what, []).append((time.process_time() - start) / share)
    return {reader: {what: min(seconds) for what, seconds in whats.items()} for reader, whats in found.items()}


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="also write the numbers to this JSON file")
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--times", type=int, default=3, help="that each is measured; the least counts")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, suffix, coding) in tqdm(FILES.items(), file=sys.stderr):
            path = Path(folder) / f"{len(found)}.{suffix}"
            make(path, size, coding)
            found[name] = measure(path, Path(folder) / "index", options.clips, options.times)
            for what in ("one clip of 14", "whole file"):
                least = {reader: times[what] for reader, times in found[name].items()}
                print(name, what, {n: f"{s:.3f} ({s / least['OpenCV']:.2f})" for n, s in least.items()}, flush=True)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    run_cli(main)
