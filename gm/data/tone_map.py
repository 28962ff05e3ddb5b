"""High dynamic range (HLG, PQ) → SDR: what a player for ordinary screens does, in its plainest standard form.

Light in cd/m² by ITU-R BT.2100 (HLG for a screen of 1000), brought from 1000 down to SDR's 100 by the curve of
ITU-R BT.2390, section 5.4.1, on the strongest of the three colours, so that hues stay; BT.2020 colours to BT.709 as in
ITU-R BT.2087; then the inverse of BT.1886's gamma of 2.4. What is brighter than 1000 or outside of BT.709 is cut off.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273, table 3
CODES = 4096  # of a colour, from black to white: 12 bits
_PEAK, _WHITE = 1000.0, 100.0  # cd/m²
_ROOTS = 65536  # entries of the table from light to 8 bits, over its square root: finer where it is dark
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
_BT2020_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def to_sdr(codes: np.ndarray, transfer: int, bt2020: bool = True) -> np.ndarray:
    """uint16 (h, w, 3) RGB codes of 12 bits, full range → uint8 (h, w, 3) RGB.

    transfer: PQ or HLG; bt2020: whether its colours are BT.2020's, else BT.709's.
    """
    light = _light(transfer)[codes]  # cd/m²
    if transfer == HLG:  # the screen's own gamma, of 1.2 in luminance: BT.2100, table 5
        luma = cv2.transform(light, _BT2020_LUMA[None]) / _PEAK
        light *= (np.maximum(luma, 1e-6) ** 0.2)[..., None]
    strongest = light.max(axis=2)
    light *= (_gain()[_root_index(strongest / _PEAK)] / _WHITE)[..., None]
    if bt2020:
        light = cv2.transform(light, _BT2020_TO_709)
    return _gamma()[_root_index(light)]


def _root_index(values: np.ndarray) -> np.ndarray:
    return (np.sqrt(np.clip(values, 0, 1)) * (_ROOTS - 1) + 0.5).astype(np.uint16)


@functools.cache
def _light(transfer: int) -> np.ndarray:
    """float32 (CODES,): what each code is in cd/m²; of HLG, without the screen's gamma."""
    signal = np.arange(CODES) / (CODES - 1)
    if transfer == PQ:
        return _pq_to_light(signal).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return (_PEAK * scene).astype(np.float32)


@functools.cache
def _gain() -> np.ndarray:
    """float32 (_ROOTS,): by how much light is multiplied, over the square root of light / _PEAK."""
    light = _PEAK * np.linspace(0, 1, _ROOTS) ** 2
    peak, target = _light_to_pq(_PEAK), _light_to_pq(_WHITE) / _light_to_pq(_PEAK)
    signal = _light_to_pq(light) / peak
    knee = 1.5 * target - 0.5
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * target
    mapped = _pq_to_light(np.where(signal < knee, signal, spline) * peak)
    return np.divide(mapped, light, out=np.ones_like(light), where=light > 1e-3).astype(np.float32)


@functools.cache
def _gamma() -> np.ndarray:
    """uint8 (_ROOTS,): of light (1: white), over its square root."""
    return np.rint(255 * (np.linspace(0, 1, _ROOTS) ** 2) ** (1 / 2.4)).astype(np.uint8)


_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def _pq_to_light(signal: np.ndarray | float) -> np.ndarray:
    """BT.2100, table 4: the signal from 0 to 1 → cd/m²."""
    power = np.asarray(signal, np.float64) ** (1 / _M2)
    return 10000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def _light_to_pq(light: np.ndarray | float) -> np.ndarray:
    power = (np.asarray(light, np.float64) / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2
