"""How far arrays are apart, where neither side may be empty, NaN or infinite: two sides of NaN are not near."""

import numpy as np


def difference(found, expected):
    """Largest |found - expected| as a share of the largest |expected|, over two arrays or two lists of arrays."""
    found, expected = (side if isinstance(side, (list, tuple)) else [side] for side in (found, expected))
    assert [a.shape for a in found] == [a.shape for a in expected] != []
    assert all(a.size and np.isfinite(a).all() for a in (*found, *expected))
    largest = max(float(np.abs(a).max()) for a in expected)
    assert largest > 0
    return max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(found, expected)) / largest
