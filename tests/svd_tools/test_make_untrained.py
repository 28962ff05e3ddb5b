"""svd_tools/make_untrained.py: every parameter of a model at its initial value, and wrong arguments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gm.checkpoint.formats import open_checkpoint
from gm.errors import UserError
from gm.model import COMPONENTS, build_component, load_model_config
from gm.networks.init import initialize
from svd_tools import make_untrained

MODEL = Path(__file__).resolve().parents[1] / "small_model.yaml"


def test_it_holds_what_the_networks_begin_with(tmp_path):
    output = tmp_path / "new" / "model.safetensors"
    make_untrained.main([f"--config={MODEL}", f"--output={output}", "--seed=3"])
    config = load_model_config(MODEL)
    cells = [initialize(build_component(config, name), 3) for name in COMPONENTS]
    begun = {p.name: p.asnumpy() for cell in cells for p in cell.get_parameters()}
    with open_checkpoint(output) as file:
        assert set(file.names()) == set(begun)
        assert not [name for name, array in begun.items() if not np.array_equal(file.read(name), array)]
    with pytest.raises(UserError, match="is already there"):
        make_untrained.main([f"--config={MODEL}", f"--output={output}"])


def test_no_seed_is_negative(tmp_path):
    with pytest.raises(UserError, match="--seed must be at least 0, not -1"):
        make_untrained.main([f"--config={MODEL}", f"--output={tmp_path / 'model.safetensors'}", "--seed=-1"])
