"""Every test starts on the CPU in PyNative with the operations bound as the programs bind them."""

import os

import pytest

os.environ["SVD_COMPILE_CACHE"] = "off"  # programs that tests start compile what they run


@pytest.fixture(autouse=True)
def _fresh_device():
    from gm import ops

    ops.set_device("CPU", ops.PYNATIVE_MODE)


@pytest.fixture(autouse=True)
def _own_signals(monkeypatch):
    """A program that is called here must not take pytest's."""
    from gm import interrupts

    monkeypatch.setattr(interrupts, "catch", lambda: None)


pytest_plugins = ["tests.untrained"]
