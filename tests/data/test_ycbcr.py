"""Colours of half the size: C++ and NumPy give the same bytes, which are those of the formulas in float64."""

import os
import subprocess
import sys

import numpy as np
import pytest

from gm.data import ycbcr
from gm.places import ROOT

WEIGHTS = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}
SIZES = [(2, 2), (2, 10), (8, 4), (34, 62), (62, 34), (130, 66), (96, 258)]  # with remainders of all vectors


def drawn(height, width, extreme, seed=0):
    """Planes whose lines lie further apart than they are long."""
    random = np.random.default_rng(seed)
    planes = []
    for shape in ((height, width), (height // 2, width // 2), (height // 2, width // 2)):
        values = random.choice([0, 16, 128, 240, 255], shape) if extreme else random.integers(0, 256, shape)
        plane = np.zeros((shape[0], shape[1] + 13), np.uint8)
        plane[:, : shape[1]] = values
        planes.append(plane[:, : shape[1]])
    return planes


@pytest.mark.skipif(ycbcr._compiled() is None, reason="no compiler here")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_both_forms_give_the_same_bytes(matrix, full):
    chosen = ycbcr.numbers(*WEIGHTS[matrix], full)
    for height, width in SIZES:
        for extreme in (False, True):
            planes = drawn(height, width, extreme)
            compiled, plain = np.empty((2, height, width, 3), np.uint8)
            ycbcr.to_rgb(planes, chosen, compiled)
            ycbcr._by_numpy(planes, chosen, plain)
            assert np.array_equal(compiled, plain), (height, width, extreme)


def between(samples):
    """float64: twice as many lines, by the cubic filter with B = 0 and C = 0.6 in the quarters between samples."""

    def weight(x):
        return 1.4 * x**3 - 2.4 * x**2 + 1 if x < 1 else -0.6 * x**3 + 3 * x**2 - 4.8 * x + 2.4

    lines = []
    for line in range(2 * len(samples)):
        place = line / 2 - 0.25
        near = np.floor(place) + np.arange(-1, 3)
        weights = np.array([weight(abs(place - n)) for n in near])
        if line == 2:  # swscale's way
            weights = np.array([0, *weights[1:]]) / weights[1:].sum()
        lines.append(np.tensordot(weights, samples[near.clip(0, len(samples) - 1).astype(int)], 1))
    return np.stack(lines)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_the_bytes_are_those_of_the_standard(matrix, full):
    """ITU-T H.273 in float64, rounded once at the end."""
    red, blue = WEIGHTS[matrix]
    planes, found = drawn(34, 62, extreme=False), np.empty((34, 62, 3), np.uint8)
    ycbcr.to_rgb(planes, ycbcr.numbers(red, blue, full), found)
    u, v = (between(np.minimum(between(plane.T.astype(float)), 256 - 1 / 128).T) - 128 for plane in planes[1:])
    light, colour, black = (255, 255, 0) if full else (219, 224, 16)
    y, u, v = (planes[0] - float(black)) / light, u / colour, v / colour
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    truth = np.clip(255 * np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], -1), 0, 255)
    assert np.abs(found - truth).max() < 0.75


def test_without_a_compiler_one_line_says_so(tmp_path):
    code = "import sys; from gm.data import ycbcr; print(ycbcr._compiled(), 'mindspore' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.stdout.split() == ["None", "False"]
    assert done.stderr.count("\n") == 1 and "install g++ to make reading of videos faster" in done.stderr
