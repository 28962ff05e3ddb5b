"""The small untrained model that tests run: made once for each run of the tests."""

from pathlib import Path

import pytest

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "svd_untrained.yaml"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Path of a checkpoint of configs/svd_untrained.yaml."""
    from svd_tools.make_untrained import write_untrained

    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    write_untrained(CONFIG, path)
    return path
