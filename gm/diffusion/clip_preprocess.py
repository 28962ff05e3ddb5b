"""What CLIP sees: the original resizes with kornia 0.6.9, blur first and without its rounding; here as matrices.

Resizing is linear and separable, so each axis is one small dense matrix, blur and interpolation multiplied together.
That is exact on every device; bicubic operators differ between frameworks by 2e-3 and more.
"""

from __future__ import annotations

import numpy as np

CLIP_SIZE = 224
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC_A = -0.75


def _blur_matrix(length: int, factor: float) -> np.ndarray:
    """(length, length): Gaussian blur that shrinking by `factor` asks for, borders reflected without the edge pixel."""
    sigma = max((factor - 1) / 2, 0.001)
    size = int(max(2 * 2 * sigma, 3))
    size += 1 - size % 2
    offsets = np.arange(size) - size // 2
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    rows = np.arange(length)
    matrix = np.zeros((length, length))
    for offset, weight in zip(offsets, weights):
        columns = np.abs(rows + offset)
        columns = np.where(columns >= length, 2 * (length - 1) - columns, columns)
        np.add.at(matrix, (rows, columns), weight)
    return matrix


def _bicubic_matrix(length: int, size: int) -> np.ndarray:
    """(size, length): bicubic interpolation with align_corners, taps beyond the border clamped to it."""
    positions = np.arange(size) * (length - 1) / (size - 1)
    first = np.floor(positions).astype(int)
    matrix = np.zeros((size, length))
    for tap in range(-1, 3):
        d = np.abs(positions - (first + tap))
        near = ((BICUBIC_A + 2) * d - (BICUBIC_A + 3)) * d * d + 1
        far = ((BICUBIC_A * d - 5 * BICUBIC_A) * d + 8 * BICUBIC_A) * d - 4 * BICUBIC_A
        weight = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
        np.add.at(matrix, (np.arange(size), np.clip(first + tap, 0, length - 1)), weight)
    return matrix


def resize_matrices(height: int, width: int, size: int = CLIP_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """float64 (size, height) and (size, width). Both axes are blurred when either of them shrinks."""
    blur = max(height, width) > size
    rows, columns = _bicubic_matrix(height, size), _bicubic_matrix(width, size)
    if blur:
        rows = rows @ _blur_matrix(height, height / size)
        columns = columns @ _blur_matrix(width, width / size)
    return rows, columns


def preprocess(image: np.ndarray, size: int = CLIP_SIZE) -> np.ndarray:
    """Pixels float32 (n, 3, h, w) in [-1, 1], any h and w -> float32 (n, 3, size, size), normalised as CLIP wants.

    The aspect ratio is not kept and nothing is cropped (original: FrozenOpenCLIPImageEmbedder.preprocess).
    """
    if image.shape[2:] != (size, size):
        height, width = image.shape[2:]
        rows, columns = resize_matrices(height, width, size)
        image = rows @ image.astype(np.float64) @ columns.T
    image = (image + 1) / 2
    mean, std = np.reshape(CLIP_MEAN, (3, 1, 1)), np.reshape(CLIP_STD, (3, 1, 1))
    return ((image - mean) / std).astype(np.float32)
