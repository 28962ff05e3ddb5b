"""Videos made by ffmpeg whose pictures tell which frame they are, and what ffmpeg itself shows of a file: the truth."""

import signal
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

WIDTH, HEIGHT, BITS = 96, 64, 12
X264 = ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-g", "20")
OPEN_GOP = (
    "-pix_fmt",
    "yuv420p",
    "-c:v",
    "libx264",
    "-x264-params",
    "keyint=20:open-gop=1:scenecut=0:bframes=3:b-adapt=0",
)
HEVC = ("-pix_fmt", "yuv420p", "-c:v", "libx265", "-x265-params", "keyint=20:min-keyint=20:scenecut=0:log-level=none")
_FLAGS = "flags=bicubic+accurate_rnd+full_chroma_int"
# Left to itself ffmpeg takes BT.601 for what is not tagged, and rounds roughly.
TO_RGB = f"scale=in_color_matrix=bt601:{_FLAGS},format=gbrp"


def coded(count, width=WIDTH, height=HEIGHT, first=0, seed=0):
    """uint8 (count, height, width, 3): over colours that drift, the frame's number as 12 blocks, light for 1."""
    cells = np.random.default_rng(seed).integers(40, 200, (height // 8, width // 8, 3)).astype(np.uint8)
    picture = cells.repeat(8, 0).repeat(8, 1)
    frames, block = np.empty((count, height, width, 3), np.uint8), width // BITS
    for index in range(count):
        frames[index] = np.roll(picture, (index // 2, index), (0, 1))
        for bit in range(BITS):
            frames[index, : height // 3, bit * block : (bit + 1) * block] = 235 if (first + index) >> bit & 1 else 20
    return frames


def numbers(frames):
    """Which frames these are: a list of int."""
    height, width = frames.shape[1:3]
    block = width // BITS
    blocks = frames[:, height // 12 : height // 4, : block * BITS].reshape(len(frames), -1, BITS, block, 3)
    light = blocks[:, :, :, block // 4 : block - block // 4].mean((1, 3, 4)) > 128
    return (light * 2 ** np.arange(BITS)).sum(1).tolist()


def ffmpeg(*arguments, data=None):
    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-loglevel", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True)
    if done.returncode == -signal.SIGSEGV and "7.0.2" in program:
        pytest.skip("ffmpeg 7.0.2, which imageio-ffmpeg has for Python 3.9, crashes when it reads a transport stream")
    done.check_returncode()
    return done.stdout


def make(frames, path, *options, fps=30):
    """Encode frames by ffmpeg with the output options given → path."""
    height, width = frames.shape[1:3]
    size = ["-s", f"{width}x{height}"]
    ffmpeg(
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        *size,
        "-framerate",
        fps,
        "-i",
        "-",
        *options,
        path,
        data=frames.tobytes(),
    )
    return path


def shown(path, filters=TO_RGB, size=(HEIGHT, WIDTH), threads=0):
    """uint8 (t, h, w, 3): what ffmpeg gives when it decodes the file from its beginning to its end. threads: of the
    decoder, 0 as many as there are; what it makes up for lost pictures depends on them."""
    data = ffmpeg(
        "-threads",
        threads,
        "-i",
        path,
        "-an",
        "-sn",
        "-dn",
        "-fps_mode",
        "passthrough",
        "-vf",
        filters,
        "-pix_fmt",
        "rgb24",
        "-f",
        "rawvideo",
        "-",
    )
    return np.frombuffer(data, np.uint8).reshape(-1, *size, 3)


def alike(frames, truth):
    """Whether pictures of the same shape differ in nothing but how their colours were rounded: by 2 of 255 at most."""
    return frames.shape == truth.shape and np.abs(frames.astype(int) - truth).max() <= 2


def by_matrix(matrix, width=None):
    """Filters for `shown`: to RGB by a colour matrix of ffmpeg's, and to another width."""
    size = f"w={width}:h=ih:" if width else ""
    return f"scale={size}in_color_matrix={matrix}:{_FLAGS},format=gbrp"


def edit_box(source, target, name, edit):
    """Copy of an mp4 with the box of that name changed: edit(bytearray, place of the name)."""
    content = bytearray(source.read_bytes())
    place = content.find(name)
    assert place > 0
    edit(content, place)
    target.write_bytes(content)
    return target
