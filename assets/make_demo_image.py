"""Draws assets/demo.png: a lake between hills in the evening, with a house. Usage: python assets/make_demo_image.py

Drawn by formula so that the repository holds no picture of anybody else's.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH, SEED = 256, 256, 7  # multiples of 64, which SVD needs; square, as svd_tiny was trained
SCALE = 4  # drawn larger, then reduced: smooth edges
HORIZON = 0.62  # of the height


def noise(rng, height, width, cells):
    """Smooth random field (height, width) in about [-1, 1]: octaves of coarse random grids, blown up."""
    field = np.zeros((height, width), np.float32)
    for octave in range(5):
        n = cells * 2**octave
        grid = rng.uniform(-1, 1, (max(2, n * height // width), n)).astype(np.float32)
        field += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return field / 1.6


def blend(image, color, amount):
    """Lay a color (3,) or picture (h,w,3) over `image` where `amount` (h,w) in [0, 1] says so."""
    return image + (np.asarray(color, np.float32) - image) * np.clip(amount, 0, 1)[..., None]


def sky(rng, x, y):
    height, width = y.shape
    t = np.clip(y / HORIZON, 0, 1)[..., None]
    image = (1 - t) * np.float32([58, 96, 158]) + t * np.float32([250, 196, 148])
    aspect = width / height
    distance = np.hypot((x - 0.70) * aspect, y - 0.40)
    image = blend(image, [255, 226, 170], 0.75 * np.exp(-((distance / 0.22) ** 2)))
    clouds = noise(rng, height, width, 3) + 0.5 * np.sin(9 * y + 2 * x)
    image = blend(image, [255, 232, 214], 0.65 * np.clip(clouds, 0, 1) * (1 - t[..., 0]) ** 0.4)
    return blend(image, [255, 246, 216], (0.062 - distance) * height / 4)


def hills(rng, image, x, y):
    height, width = y.shape
    for top, swing, color, texture in (
        (0.46, 0.07, [132, 140, 170], 10),
        (0.53, 0.05, [92, 116, 122], 22),
        (0.585, 0.025, [58, 88, 62], 40),
    ):
        ridge = top + swing * noise(rng, 1 + height // 8, width, 4)[0]
        shade = np.float32(color) + texture * noise(rng, height, width, 24)[..., None]
        image = blend(image, shade, (y - ridge) * height / 3)
    return image


def house(image, s):
    """A cottage with a lit window on the near hill; `s` pixels to a hundredth of the height."""
    foot, left, right = 65 * s, 34 * s, 47 * s

    def fill(points, color):
        cv2.fillPoly(image, [np.array(points, np.int32)], color, lineType=cv2.LINE_AA)

    def box(x0, y0, x1, y1, color):
        fill([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    box(left, foot - 9 * s, right, foot, (206, 192, 172))
    box(right, foot - 9 * s, right + 6 * s, foot, (158, 140, 128))
    roof = foot - 9 * s
    top = roof - 6 * s
    fill([(left - s, roof), (left + 4 * s, top), (right + 3 * s, top), (right + s, roof)], (150, 66, 48))
    fill([(right + s, roof), (right + 3 * s, top), (right + 7 * s, roof)], (112, 52, 42))
    box(left + 9 * s, roof - 9 * s, left + 11 * s, roof - 5 * s, (120, 80, 66))
    box(left + 2 * s, roof + 2 * s, left + 5 * s, roof + 5 * s, (255, 214, 120))
    box(left + 8 * s, roof + 3 * s, left + 11 * s, foot, (84, 54, 40))
    return image


def lake(rng, image, y):
    """Below the horizon: what is above, mirrored, darker and shaken by waves that are finer farther away."""
    height, width = y.shape
    horizon = int(HORIZON * height)
    rows, columns = np.mgrid[0 : height - horizon, 0:width].astype(np.float32)
    depth = rows / (height - horizon)
    waves = noise(rng, height - horizon, width, 6) * (2 + 14 * depth)
    ripple = np.sin(rows / (1.5 + 7 * depth) + 3 * noise(rng, height - horizon, width, 5))
    source_x, source_y = columns + waves, horizon - 1 - rows * 0.95 + 3 * ripple * (0.3 + 2 * depth)
    mirror = cv2.remap(image, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    mirror = blend(mirror, [44, 70, 98], 0.25 + 0.35 * depth)
    image[horizon:] = mirror + (9 * ripple * (0.3 + depth))[..., None]
    return image


def draw():
    """The picture, uint8 (HEIGHT, WIDTH, 3), RGB."""
    rng = np.random.default_rng(SEED)
    height, width = HEIGHT * SCALE, WIDTH * SCALE
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width, y / height
    image = np.ascontiguousarray(hills(rng, sky(rng, x, y), x, y), np.float32)
    image = lake(rng, house(image, height // 100), y)
    image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    image += rng.normal(0, 1.5, image.shape)  # film grain: flat areas are unlike any photograph
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    cv2.imwrite(str(Path(__file__).with_name("demo.png")), draw()[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
