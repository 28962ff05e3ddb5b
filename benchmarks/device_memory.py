"""What SVD at 576x1024 takes of a device's memory at the least, computed from shapes alone: nothing is run.

python benchmarks/device_memory.py [--config=configs/svd.yaml]

Weights and optimizer are exact. Of activations only what must be there at the same time is counted: the tensors that
wait for their use (skip connections; with --train.recompute the blocks' inputs), and the inputs, results and float32
copies of the widest operator. Attention's scores, workspaces and the allocator's gaps come on top.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

from jsonargparse import ArgumentParser

from gm.model import COMPONENTS, expected_parameters, load_model_config
from gm.precision import parameter_dtype
from gm.training.memory import trainable

GB = 1e9


def weights(shapes, amp_level):
    """{component: bytes} of what sampling holds."""
    found = Counter()
    for name, shape in shapes.items():
        owner = next(
            key for key in ("unet", "clip", "condition_encoder", "decoder") if name.startswith(COMPONENTS[key].prefix)
        )
        size = 2 if "16" in str(parameter_dtype(name, amp_level)) else 4
        values = 1
        for n in shape:
            values *= n
        if not name.startswith(("first_stage_model.encoder.", "first_stage_model.quant_conv.")):
            found[owner] += values * size
    return dict(found)


def unet_stages(unet, height, width):
    """(channels in, channels out, pixels of a frame, kept as a skip) of every stage of the UNet, in order."""
    pixels, channels = height // 8 * (width // 8), unet.model_channels
    found, skips = [(unet.in_channels, channels, pixels, True)], [channels]
    for level, mult in enumerate(unet.channel_mult):
        for _ in range(unet.num_res_blocks):
            found.append((channels, mult * unet.model_channels, pixels, True))
            channels = mult * unet.model_channels
            skips.append(channels)
        if level != len(unet.channel_mult) - 1:
            pixels //= 4
            found.append((channels, channels, pixels, True))
            skips.append(channels)
    found.append((channels, channels, pixels, False))
    for level, mult in reversed(list(enumerate(unet.channel_mult))):
        for i in range(unet.num_res_blocks + 1):
            found.append((channels + skips.pop(), mult * unet.model_channels, pixels, False))
            channels = mult * unet.model_channels
            if level and i == unet.num_res_blocks:
                pixels *= 4
    return found


def unet_activations(stages, frames, width_of_value):
    """(skips, blocks' inputs, widest operator) in bytes for so many frames at once.

    The widest operator is the larger of a norm (input, two float32 copies, result) and a gated linear layer (input,
    both halves of four times the channels, their product).
    """
    kept = sum(c_out * pixels for _, c_out, pixels, skip in stages if skip)
    inputs = sum(c_in * pixels for c_in, _, pixels, _ in stages)
    norm = max(c_in * pixels * (2 * width_of_value + 8) for c_in, _, pixels, _ in stages)
    gated = max(c_out * pixels * 13 * width_of_value for _, c_out, pixels, _ in stages)
    return frames * kept * width_of_value, frames * inputs * width_of_value, frames * max(norm, gated)


def decoder_widest(vae, height, width):
    """Bytes of the decoder's widest operator for one frame, float32: input, two copies and result of the norm after the
    last enlargement, which still has the channels of the level below."""
    return 4 * 4 * height * width * vae.ch * vae.ch_mult[1]


def sampling_table(config, shapes, frame_counts, height, width):
    lines = [
        "| frames | precision | weights | skips | widest operator | at least | with `--low_memory` |",
        "|---|---|---|---|---|---|---|",
    ]
    stages = unet_stages(config.model.unet, height, width)
    for frames in frame_counts:
        for amp_level, name in (("O2", "O2 (float16 or bfloat16)"), ("O0", "O0")):
            held = weights(shapes, amp_level)
            skips, _, widest = unet_activations(stages, 2 * frames, 2 if amp_level == "O2" else 4)
            total = sum(held.values()) + skips + widest
            small = held["unet"] + (skips + widest) / 2
            row = [sum(held.values()), skips, widest, total, small]
            lines.append(f"| {frames} | {name} | " + " | ".join(f"{value / GB:.1f}" for value in row) + " |")
    return lines


def training_table(config, shapes, frame_counts, height, width):
    fixed = "weights, gradients, moments"
    head = "frames", "trained", "precision", fixed, "blocks' inputs", "widest operator", "at least"
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|---|---|"]
    stages = unet_stages(config.model.unet, height, width)
    for frames in frame_counts:
        for temporal_only in (True, False):
            for amp_level in ("O2", "O0"):
                train = SimpleNamespace(temporal_only=temporal_only, lora=SimpleNamespace(rank=0))
                trained = sum(trainable(shapes, train).values())
                # Sums of gradients, those of one batch, two moments; at O2 the float32 weights too.
                fixed = weights(shapes, amp_level)["unet"] + 4 * trained * (5 if amp_level == "O2" else 4)
                _, inputs, widest = unet_activations(stages, frames, 2 if amp_level == "O2" else 4)
                row = [fixed, inputs, widest, fixed + inputs + widest]
                what = "temporal layers" if temporal_only else "whole UNet"
                lines.append(f"| {frames} | {what} | {amp_level} | " + " | ".join(f"{v / GB:.1f}" for v in row) + " |")
    return lines


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/svd.yaml")
    parser.add_argument("--frames", type=int, nargs="+", default=[14, 25])
    parser.add_argument("--height", type=int, default=576)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args(argv)
    config = load_model_config(options.config)
    shapes = expected_parameters(config)
    size = options.height, options.width
    print("Sampling, GB; both halves of guidance at once:\n")
    print("\n".join(sampling_table(config, shapes, options.frames, *size)))
    frame = decoder_widest(config.model.vae, *size)
    print(f"\nDecoding, GB: {frame / GB:.2f} for each of --SVD.decode_chunk_size frames\n")
    print("Training, GB; one clip, --train.recompute=True, --train.cache:\n")
    print("\n".join(training_table(config, shapes, options.frames, *size)))


if __name__ == "__main__":
    main()
