"""What attention blocks tell the forms that compute them."""

import mindspore as ms
import numpy as np
import pytest

from gm import ops
from gm.networks.attention import FeedForward


@pytest.mark.parametrize("training", [True, False])
def test_the_feed_forward_part_says_whether_it_is_trained(monkeypatch, training):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    told = []
    monkeypatch.setattr(ops, "feed_forward", lambda residual, *rest: told.append(rest[-1]) or residual)
    x = ms.Tensor(np.ones((2, 8), np.float32))
    FeedForward(8).set_train(training)(x, x)
    assert told == [training]
