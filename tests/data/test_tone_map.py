import numpy as np
import pytest

from gm.data.tone_map import CODES, HLG, PQ, to_sdr


def grey(signal, transfer):
    code = round(signal * (CODES - 1))
    return to_sdr(np.full((1, 1, 3), code, np.uint16), transfer)[0, 0]


# Signals of ITU-R BT.2408 and BT.2100: 10, 100 and 1000 cd/m² in PQ; and in HLG the reference white of 203 cd/m²
@pytest.mark.parametrize(
    "transfer, signal, light",
    [
        (PQ, 0.0, 0),
        (PQ, 0.3005, 10),
        (PQ, 0.5081, 100),
        (PQ, 0.5807, 203),
        (PQ, 0.7518, 1000),
        (HLG, 0.75, 203),
        (HLG, 1.0, 1000),
    ],
)
def test_the_curve(transfer, signal, light):
    """Below about 28 cd/m² light stays as it is, 1000 is white, and what lies between is pressed together."""
    value = grey(signal, transfer)
    straight = 255 * min(1, light / 100) ** (1 / 2.4)
    assert np.ptp(value) <= 1
    if light <= 28:
        assert value[0] == pytest.approx(straight, abs=1.5)
    elif light == 1000:
        assert value[0] == 255
    else:
        assert 0.8 * straight < value[0] < 255


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_brighter_stays_brighter(transfer):
    codes = np.arange(CODES, dtype=np.uint16)[None, :, None].repeat(3, 2)
    values = to_sdr(codes, transfer)[0].astype(int)
    assert (np.diff(values, axis=0) >= 0).all() and values[0].max() == 0 and values[-1].min() == 255


def test_both_kinds_of_one_light_come_out_the_same():
    assert grey(0.5807, PQ)[0] == pytest.approx(grey(0.75, HLG)[0], abs=2)


def test_colours_are_those_of_bt709():
    red = to_sdr(np.uint16([[[1500, 700, 650]]]), PQ)[0, 0].astype(int)
    as_it_is = to_sdr(np.uint16([[[1500, 700, 650]]]), PQ, bt2020=False)[0, 0].astype(int)
    assert red[0] > as_it_is[0] and red[1] < as_it_is[1]  # the same red is stronger in the narrower space
