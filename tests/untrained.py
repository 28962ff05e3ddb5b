"""The small untrained model that tests run: made once for each run of the tests."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "svd_untrained.yaml"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Path of a checkpoint of configs/svd_untrained.yaml, its UNet disturbed.

    Without that a test would see little of the UNet: the last layer of every block, and its last of all, start at zero.
    """
    from svd_tools.make_untrained import write_untrained

    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    write_untrained(CONFIG, path)
    tensors, random = load_file(path), np.random.default_rng(0)
    for name in sorted(tensors):
        if name.startswith("model.diffusion_model."):
            tensors[name] = tensors[name] + random.normal(0, 0.05, tensors[name].shape).astype(np.float32)
    save_file(tensors, path)
    return path
