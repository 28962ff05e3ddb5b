"""PyTorch's models (diffusers, transformers) for any model config of this project, with the original's weights.

The names of weights are mapped by key_map.json.gz, {part: {diffusers name: [original name, how the tensor differs]}},
which has SVD's own structure alone. In another one, a name takes the entry of the analogous name in a block that has
everything, and the numbers of its blocks are computed.
"""

import gzip
import json
import re
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open

KEY_MAP = Path(__file__).resolve().parent / "key_map.json.gz"
# The ResBlocks of the original's UNet have this epsilon; diffusers has 1e-6 in most of them.
UNET_RESNET_EPS = 1e-5
# A checkpoint has no parameters below these that a model does not take.
PREFIXES = {
    "unet": ("model.diffusion_model.",),
    "vae": (
        "first_stage_model.decoder.",
        "conditioner.embedders.3.encoder.encoder.",
        "conditioner.embedders.3.encoder.quant_conv.",
    ),
    "image_encoder": ("conditioner.embedders.0.open_clip.model.visual.",),
}
UNET_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
VAE_BLOCK = re.compile(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")
CLIP_BLOCK = re.compile(r"(vision_model\.encoder\.layers)\.(\d+)\.(.+)")


@cache
def key_map():
    with gzip.open(KEY_MAP, "rt", encoding="utf-8") as file:
        return json.load(file)


def unet_source(name, table, model):
    """[original name, change] of a name in diffusers' UNet."""
    found = UNET_BLOCK.fullmatch(name)
    if not found:
        return table[name]
    side, block, part, layer, rest = found.groups()
    source, change = table[f"{side}_blocks.1.{part}.0.{rest}"]
    layers = model["unet"]["num_res_blocks"]
    # The original counts through all levels: behind a level's ResBlocks comes its downsampler, a block of its own; on
    # the way up there is one ResBlock more, and the upsampler belongs to the last one's block.
    last = part in ("downsamplers", "upsamplers")
    number = int(block) * (layers + 1) + (layers if last else int(layer)) + (side == "down")
    source = re.sub(r"put_blocks\.\d+\.", f"put_blocks.{number}.", source)
    if part == "upsamplers" and not attention_levels(model)[-1 - int(block)]:
        source = source.replace(f".{number}.2.", f".{number}.1.")  # ResBlock, upsampler: no transformer between them
    return source, change


def vae_source(name, table, model):
    """[original name, change] of a name in diffusers' AutoencoderKLTemporalDecoder."""
    found = VAE_BLOCK.fullmatch(name)
    if not found:
        return table[name]
    side, block, part, layer, rest = found.groups()
    down = side == "encoder.down"
    source, change = table[f"{side}_blocks.{1 if down else 2}.{part}.0.{rest}"]
    # The original numbers the decoder's levels from the finest one, diffusers from the coarsest.
    level = int(block) if down else len(model["vae"]["ch_mult"]) - 1 - int(block)
    source = re.sub(r"\.(down|up)\.\d+\.", rf".\g<1>.{level}.", source)
    return re.sub(r"\.block\.\d+\.", f".block.{layer}.", source), change


def clip_source(name, table, model):
    """[original name, change] of a name in transformers' CLIPVisionModelWithProjection."""
    found = CLIP_BLOCK.fullmatch(name)
    if not found:
        return table[name]
    source, change = table[f"{found[1]}.0.{found[3]}"]
    return source.replace(".resblocks.0.", f".resblocks.{found[2]}."), change


SOURCES = {"unet": unet_source, "vae": vae_source, "image_encoder": clip_source}


def original_names(section, model, names):
    """{PyTorch's name: (original name, change)} of all names of a model."""
    found, missing = {}, []
    for name in names:
        try:
            found[name] = tuple(SOURCES[section](name, key_map()[section], model))
        except KeyError:
            missing.append(name)
    if missing:
        raise SystemExit(f"{section}: the map has nothing for {missing[:10]}")
    return found


def state_dict(section, model, checkpoint, shapes):
    """The state dict of `shapes` {name: shape}, float32, from the original's single file through the map of names."""
    names, state = original_names(section, model, shapes), {}
    with safe_open(checkpoint, framework="pt") as file:
        there = {name for name in file.keys() if name.startswith(PREFIXES[section])}  # noqa: SIM118
        different = there ^ {source for source, _ in names.values()}
        if different:
            raise SystemExit(f"{section}: PyTorch's model and {checkpoint} differ in {sorted(different)[:10]}")
        for name, (source, change) in names.items():
            value = file.get_tensor(source).float()
            if change and change.startswith("rows["):  # q, k or v of CLIP's fused projection
                value = value.chunk(3)[int(change[len("rows[")])].clone()
            elif change == "transpose":
                value = value.T.contiguous()
            state[name] = value.reshape(shapes[name]) if change and change.startswith("reshape") else value
    return state


def filled(section, model, checkpoint, network):
    """The network, which may be on the meta device, with the checkpoint's tensors."""
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    network.load_state_dict(state_dict(section, model, checkpoint, shapes), strict=True, assign=True)
    return network.eval()


def set_epsilon(unet):
    """Give every norm of the UNet's ResBlocks the original's epsilon; returns how many had another."""
    changed = 0
    for path, module in unet.named_modules():
        in_resblock = ".spatial_res_block." in path or ".temporal_res_block." in path
        if in_resblock and isinstance(module, torch.nn.GroupNorm) and module.eps != UNET_RESNET_EPS:
            module.eps = UNET_RESNET_EPS
            changed += 1
    return changed


def attention_levels(model):
    """For every level of the UNet, the finest one first, whether it has transformers."""
    unet = model["unet"]
    return [2**level in unet["attention_resolutions"] for level in range(len(unet["channel_mult"]))]


def unet_network(model):
    from diffusers import UNetSpatioTemporalConditionModel

    unet, kinds = model["unet"], attention_levels(model)
    levels = tuple(unet["model_channels"] * mult for mult in unet["channel_mult"])
    prefixes = ["CrossAttn" if kind else "" for kind in kinds]
    return UNetSpatioTemporalConditionModel(
        in_channels=unet["in_channels"],
        out_channels=unet["out_channels"],
        down_block_types=tuple(f"{prefix}DownBlockSpatioTemporal" for prefix in prefixes),
        up_block_types=tuple(f"{prefix}UpBlockSpatioTemporal" for prefix in reversed(prefixes)),
        block_out_channels=levels,
        layers_per_block=unet["num_res_blocks"],
        num_attention_heads=tuple(level // unet["num_head_channels"] for level in levels),
        transformer_layers_per_block=unet.get("transformer_depth", 1),
        cross_attention_dim=unet["context_dim"],
        addition_time_embed_dim=unet["adm_in_channels"] // 3,
        projection_class_embeddings_input_dim=unet["adm_in_channels"],
    )


def vae_network(model):
    from diffusers import AutoencoderKLTemporalDecoder
    from diffusers.models.unets.unet_3d_blocks import MidBlockTemporalDecoder

    vae = model["vae"]
    if not vae["temporal_decoder"]:
        raise SystemExit("vae: only models with the temporal decoder can be compared")
    levels = tuple(vae["ch"] * mult for mult in vae["ch_mult"])
    network = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(levels),
        block_out_channels=levels,
        layers_per_block=vae["num_res_blocks"],
        latent_channels=vae["z_channels"],
    )
    # diffusers has as many ResBlocks in the decoder's middle as in a level, which is 2 in SVD; the original always has
    # 2 with the attention between them. With 1, diffusers would leave out the attention as well.
    width = levels[-1]
    network.decoder.mid_block = MidBlockTemporalDecoder(width, width, attention_head_dim=width, num_layers=2)
    return network


def clip_network(model):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    clip = model["clip"]
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=clip["width"],
            intermediate_size=int(clip["width"] * clip["mlp_ratio"]),
            projection_dim=clip["embed_dim"],
            num_hidden_layers=clip["layers"],
            num_attention_heads=clip["width"] // clip["head_width"],
            image_size=clip["image_size"],
            patch_size=clip["patch_size"],
            hidden_act="gelu",
            layer_norm_eps=1e-5,
        )
    )


def make_unet(model, checkpoint):
    """diffusers' UNet; model: the section of the same name of a config."""
    with torch.device("meta"):
        network = unet_network(model)
    print(f"epsilon of {set_epsilon(network)} group norms in ResBlocks set to {UNET_RESNET_EPS:g}")
    return filled("unet", model, checkpoint, network)


def make_vae(model, checkpoint):
    """diffusers' VAE: the conditioner's encoder and the temporal decoder."""
    with torch.device("meta"):
        network = vae_network(model)
    return filled("vae", model, checkpoint, network)


def make_clip(model, checkpoint):
    """transformers' image tower. It has a buffer that is no weight, so it is not made on the meta device."""
    return filled("image_encoder", model, checkpoint, clip_network(model))
