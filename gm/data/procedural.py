"""Pictures and clips drawn by the program itself, which the tiny model learns from: nobody's photographs are needed.

A picture is a background of fractal noise with up to 160 overlapping leaves of all sizes ("dead leaves": the sizes
follow a power law, which gives photographs their statistics), each flat, shaded, speckled, striped or chequered, under
uneven light, at times out of focus or grainy. A clip is a camera that pushes in on such a picture at constant speed.

Look at some: `python -m gm.data.procedural --output preview.png`
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from gm.data.motion import motion_score, score

_TEXTURES = 6
_MAX_LEAVES = 160
_PLAIN = 0.25  # share of the pictures that show a thing on a plain ground, such as white
# A zoom by the factor 1 + r per second moves a square's points by r * 0.383 of its side on average.
MEAN_RADIUS = 0.383
_MOST_CORRECTION = 1.5  # of a clip's speed, either way: a picture that is nearly empty would need any speed


class Clip(NamedTuple):
    """frames uint8 (t, h, w, 3) RGB; fps; motion: the measured score (`gm.data.motion`)."""

    frames: np.ndarray
    fps: float
    motion: float


def fractal_noise(random: np.random.Generator, side: int, channels: int, roughness: float) -> np.ndarray:
    """float32 (side, side, channels), mean 0, deviation about 1: octaves of noise, each finer one times `roughness`."""
    total = np.zeros((side, side, channels), np.float32)
    cells, weight, power = 2, 1.0, 0.0
    while cells <= side:
        octave = random.standard_normal((cells + 3, cells + 3, channels), np.float32)
        octave = cv2.resize(octave, (side, side), interpolation=cv2.INTER_CUBIC).reshape(total.shape)
        total += np.float32(weight) * octave
        power += weight * weight
        cells, weight = cells * 2, weight * roughness
    return total / np.float32(math.sqrt(power))


def _colours(random: np.random.Generator, count: int) -> np.ndarray:
    """float32 (count, 3) in [0, 255]: hues around two that the picture favours, most pale, as in photographs."""
    hues = random.random(2)
    colours = []
    for _ in range(count):
        hue = (hues[random.integers(2)] + 0.12 * random.standard_normal()) % 1.0
        saturation = random.random() if random.random() < 0.2 else min(1.0, abs(random.normal(0.0, 0.35)))
        colours.append(colorsys.hsv_to_rgb(hue, saturation, random.beta(0.9, 0.9)))
    return np.array(colours, np.float32) * 255.0


def _pattern(random: np.random.Generator, side: int) -> np.ndarray:
    """float32 (side, side), about [-1, 1]: stripes, a chequer or speckle."""
    kind = random.integers(4)
    if kind == 0:
        return np.clip(fractal_noise(random, side, 1, random.uniform(0.6, 1.1))[..., 0], -2, 2) * 0.6
    angle, period = random.uniform(0, math.pi), side * random.uniform(0.015, 0.12)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    along = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period))
    if kind == 1:
        return along
    across = np.sin((y * math.cos(angle) - x * math.sin(angle)) * (2 * math.pi / period))
    return np.clip(4 * along * across, -1, 1) if kind == 2 else np.clip(3 * along, -1, 1)


def _outline(random: np.random.Generator, side: int, gathered: bool) -> np.ndarray:
    """Corners of one leaf, int32 (n, 2). gathered: its place is near the centre instead of anywhere."""
    radius = min(0.5, 0.02 * (1.0 - random.random()) ** -0.9) * side
    centre = random.normal(0.5, 0.12, 2) * side if gathered else random.random(2) * side
    if gathered:
        radius *= 0.5
    kind = random.integers(4)
    if kind == 0:  # a stroke
        step = random.standard_normal(2)
        step *= radius * random.uniform(1, 4) / np.linalg.norm(step)
        normal = np.array([-step[1], step[0]]) * random.uniform(0.02, 0.15)
        corners = [centre - step - normal, centre + step - normal, centre + step + normal, centre - step + normal]
    else:
        count = {1: 24, 2: 4, 3: random.integers(3, 9)}[kind]
        angles = np.arange(count) * (2 * math.pi / count) + random.uniform(0, 2 * math.pi)
        lengths = radius * (random.uniform(0.5, 1.2, count) if kind == 3 else np.ones(count))
        stretch, turn = random.uniform(0.3, 1.0), random.uniform(0, math.pi)
        x, y = lengths * np.cos(angles), lengths * np.sin(angles) * stretch
        c, s = math.cos(turn), math.sin(turn)
        corners = centre + np.stack([x * c - y * s, x * s + y * c], 1)
    return np.round(np.array(corners)).astype(np.int32)


def picture(random: np.random.Generator, side: int) -> np.ndarray:
    """uint8 (side, side, 3): one picture from a `numpy.random.Generator`."""
    leaves = int(random.integers(8, _MAX_LEAVES))
    plain = random.random() < _PLAIN
    labels = np.zeros((side, side), np.uint8)
    for leaf in range(1, leaves):
        cv2.fillPoly(labels, [_outline(random, side, plain)], leaf)
    textures = np.stack([_pattern(random, side) for _ in range(_TEXTURES)])
    kinds = random.integers(_TEXTURES, size=leaves)
    strength = random.exponential(18.0, leaves).astype(np.float32) * (random.random(leaves) < 0.7)
    strength[0] = random.uniform(5, 50)
    colours = _colours(random, leaves)
    y, x = np.mgrid[:side, :side]
    texture = textures[kinds[labels], y, x] * strength[labels]
    background = fractal_noise(random, side, 3, random.uniform(0.4, 0.8)) * np.float32(random.uniform(5, 40))
    image = colours[labels] + texture[..., None] + background * (labels == 0)[..., None]
    light = 1.0 + random.uniform(0, 0.3) * fractal_noise(random, side, 1, 0.3)
    image = image * np.clip(light, 0.3, 1.8)
    if plain:
        image[labels == 0] = (255, 255, 255) if random.random() < 0.6 else colours[0]
    return _photograph(random, image)


def _photograph(random: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Focus, contrast and grain."""
    if random.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), len(image) * random.uniform(0.001, 0.01))
    image = 127.5 + (image - 127.5) * random.uniform(0.7, 1.3) + random.uniform(-20, 20)
    if random.random() < 0.5:
        image = image + random.normal(0, random.uniform(0, 10), image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def push_in(canvas: np.ndarray, frames: int, size: int, zoom: float, centre: Sequence[float]) -> np.ndarray:
    """Frames uint8 (t, size, size, 3) of a camera that pushes in on `canvas`: frame k shows it zoom**k times enlarged.

    centre: the fixed point, (x, y) as shares of the side.
    """
    shares = (zoom**-k for k in range(frames))
    return np.stack([_view(canvas, size, share, [c * (1 - share) for c in centre]) for share in shares])


def pan(canvas: np.ndarray, frames: int, size: int, step: float, direction: Sequence[int] = (1, 0)) -> np.ndarray:
    """Frames uint8 (t, size, size, 3) of a camera that turns over `canvas`, by `step` of the picture's side with every
    frame; what is seen moves the other way.

    direction: (right, down) of the camera, each -1, 0 or 1; at the end that it turns from it begins at the edge.
    """
    room = 1 - 1 / (1 + step * (frames - 1))  # share of the canvas's side that comes into view on the way
    way = np.linspace(-1, 1, frames)
    return np.stack([_view(canvas, size, 1 - room, [room * (1 + d * k) / 2 for d in direction]) for k in way])


def draw_back(canvas: np.ndarray, frames: int, size: int, zoom: float) -> np.ndarray:
    """Frames of a camera that draws back from the middle of `canvas`: `push_in` in reversed time."""
    return np.ascontiguousarray(push_in(canvas, frames, size, zoom, (0.5, 0.5))[::-1])


def _view(canvas: np.ndarray, size: int, share: float, start: Sequence[float]) -> np.ndarray:
    """The square of `canvas` with the side `share` at `start` (x, y), as shares of its side, scaled to size x size.

    Sampled twice as densely as needed, then averaged.
    """
    side, dense = len(canvas), 2 * size
    scale = side * share / dense
    x, y = (side * s + (scale - 1) / 2 for s in start)
    view = cv2.warpAffine(
        canvas,
        np.array([[scale, 0, x], [0, scale, y]]),
        (dense, dense),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.resize(view, (size, size), interpolation=cv2.INTER_AREA)


def clip(random: np.random.Generator, frames: int, size: int, fps: float, most_bucket: float) -> Clip:
    """`Clip` of a camera pushing in on the middle, its motion bucket up to `most_bucket`, high ones more often.

    Of how a picture moves the network is told the measured score alone. Plain areas have no flow, so the same zoom
    scores less where there are many: the speed is therefore corrected once by what the first attempt scores, within
    limits, and a score means the same zoom in most pictures.
    """
    canvas = picture(random, 2 * size)
    wanted = score(most_bucket * math.sqrt(random.random()))

    def shown(rate: float) -> np.ndarray:
        return push_in(canvas, frames, size, math.exp(rate / fps), (0.5, 0.5))

    rate = wanted / 100 / MEAN_RADIUS
    found = motion_score(shown(rate), fps)
    rate *= min(max(wanted / max(found, 1e-6), 1 / _MOST_CORRECTION), _MOST_CORRECTION)
    drawn = shown(rate)
    return Clip(drawn, fps, motion_score(drawn, fps))


def main(argv: Sequence[str] | None = None) -> None:
    from gm.data.motion import bucket
    from gm.data.outputs import write_png
    from gm.data.videos import contact_sheet
    from gm.parser import Parser

    parser = Parser("Draw a sheet of procedural clips, one in each row.")
    parser.add_argument("--output", default="preview.png", help="the picture to write")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="pixels of a frame's side")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    random = np.random.default_rng(options.seed)
    clips = [clip(random, 14, options.size, 24.0, 215.0) for _ in range(options.clips)]
    write_png(contact_sheet(np.concatenate([c.frames[::2] for c in clips]), 7), options.output)
    print(f"{options.output}: motion buckets from top to bottom {[bucket(c.motion) for c in clips]}")


if __name__ == "__main__":
    from gm.errors import run_cli

    run_cli(main)
