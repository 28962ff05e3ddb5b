"""What of the UNet is no arithmetic: the goldens and the reference compare that."""

from pathlib import Path

from gm.model import build_component, load_model_config

SMALL = Path(__file__).resolve().parents[1] / "small_model.yaml"


def test_cells_inside_are_told_the_graphs_name_when_it_changes():
    unet = build_component(load_model_config(SMALL), "unet")
    inside = unet.middle_block.layers[0]
    unet.compile_phase = "one"
    assert inside.compile_phase == unet.compile_phase == "one"
    inside.compile_phase = "seen"
    unet.compile_phase = "one"
    assert inside.compile_phase == "seen"
    unet.compile_phase = "two"
    assert inside.compile_phase == unet.compile_phase == "two"
