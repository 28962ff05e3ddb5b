import gzip
import json
from pathlib import Path

from gm.checkpoint.rules import original_name, unused_reason

REFERENCE = Path(__file__).resolve().parent.parent / "reference"


def load(name):
    with gzip.open(REFERENCE / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


def test_the_older_ports_names_become_the_original_ones():
    renamed = load("mindone_names")
    assert len(renamed) == 835
    assert {port: original_name(port) for port in renamed.values()} == {port: name for name, port in renamed.items()}


def test_original_names_stay_as_they_are():
    names = [*load("manifest_sgm"), *load("manifest_image_decoder")]
    assert len(names) == 2446 + 248
    assert [original_name(name) for name in names] == names


def test_wrappers_of_the_older_ports_trainer_are_stripped_everywhere():
    wrapped = "model._backbone.diffusion_model.out._backbone.0._backbone.gamma"
    assert original_name(wrapped) == "model.diffusion_model.out.0.weight"


def test_only_whole_components_are_renamed():
    for name in ("a.b_backbone.c", "a.conv3d_x.weight", "other.conv3d.weight", "a.gamma.b", "a.my_gamma"):
        assert original_name(name) == name


def test_exactly_the_written_keys_of_the_original_are_unused():
    names = load("manifest_sgm")
    unused = [name for name in names if unused_reason(name)]
    clip = "conditioner.embedders.0.open_clip.model."
    ae = "conditioner.embedders.3.encoder."
    assert {name for name in unused if name.startswith(clip)} == {
        clip + tail
        for tail in (
            "positional_embedding",
            "text_projection",
            "logit_scale",
            "token_embedding.weight",
            "ln_final.weight",
            "ln_final.bias",
        )
    }
    assert sum(name.startswith(ae + "decoder.") for name in unused) == 138
    assert sum(name.startswith(ae + "post_quant_conv.") for name in unused) == 2
    assert len(unused) == 6 + 138 + 2


def test_everything_in_the_first_stage_of_the_image_decoder_is_used():
    assert not [name for name in load("manifest_image_decoder") if unused_reason(name)]
