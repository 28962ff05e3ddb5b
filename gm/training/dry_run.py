"""What a run would do, without doing it: settings, trainable parameters, memory."""

from __future__ import annotations

import math
from collections import Counter

from omegaconf import OmegaConf

from gm.checkpoint.lora import WEIGHT
from gm.model import COMPONENTS
from gm.ops import parallel
from gm.precision import parameter_dtype
from gm.training.lora import lora_layers
from gm.training.settings import precision
from gm.training.step import is_temporal


def describe(plan):
    """The text that --dry_run prints for a `Plan`."""
    lines = ["# settings", OmegaConf.to_yaml(plan.settings).rstrip(), "", "# trainable parameters"]
    counts = trainable_counts(plan.base.shapes, plan.train)
    lines += [f"{values:>15,}  {module}" for module, values in counts.items()]
    lines += [f"{sum(counts.values()):>15,}  in all", "", "# the run"]
    lines += [
        f"base: {plan.base.describe()}",
        f"{len(plan.dataset)} clips, {plan.total} steps of "
        f"{plan.global_batch * plan.train.optimizer.accumulate} clips; "
        f"{len(plan.held_out) if plan.held_out else 0} clips held out",
        "", "# memory of one device, GB (activations are not counted: they grow with frames x height x width)",
    ]
    memory = memory_estimate(plan.base.shapes, plan.train)
    lines += [f"{size / 1e9:>15.2f}  {what}" for what, size in memory.items()]
    lines.append(f"{sum(memory.values()) / 1e9:>15.2f}  in all")
    return "\n".join(lines)


def trainable(shapes, train):
    """{full name: number of values} of the parameters that would be trained."""
    prefix, temporal_only = COMPONENTS["unet"].prefix, train.temporal_only
    if train.lora.rank:
        layers = lora_layers(shapes, temporal_only, train.lora.targets)
        return {layer: train.lora.rank * sum(shapes[layer + WEIGHT]) for layer in layers}
    return {
        name: math.prod(shape) for name, shape in shapes.items()
        if name.startswith(prefix) and (not temporal_only or is_temporal(name))
    }


def trainable_counts(shapes, train):
    """{module of the UNet such as "input_blocks.1": number of values that would be trained}."""
    counts = Counter()
    for name, values in trainable(shapes, train).items():
        parts = name[len(COMPONENTS["unet"].prefix):].split(".")
        counts[".".join(parts[:2] if parts[0].endswith("blocks") else parts[:1])] += values
    return dict(counts)


def memory_estimate(shapes, train):
    """{what: bytes} of everything whose size does not depend on the clips."""
    chosen, amp_level = sum(trainable(shapes, train).values()), precision(train)
    half = {name: "16" in str(parameter_dtype(name, amp_level)) for name in shapes}
    cached = train.cache is not None
    used = {name: math.prod(shape) for name, shape in shapes.items()
            if name.startswith(COMPONENTS["unet"].prefix) or not cached and not _is_decoder(name)}
    loaded = "UNet" if cached else "UNet and encoders"
    found = {
        loaded: sum(values * (2 if half[name] else 4) for name, values in used.items()),
        "sums of gradients": 4 * chosen,
        "gradients of one batch": 4 * chosen,
        "two moments": 8 * chosen // (parallel.size() if train.optimizer.shard else 1),
    }
    if amp_level != "O0":
        found["float32 weights"] = 4 * chosen
    if train.ema:
        found["running mean of the weights"] = 4 * chosen
    return found


def _is_decoder(name):
    return name.startswith("first_stage_model.") and not name.startswith(("first_stage_model.encoder.",
                                                                         "first_stage_model.quant_conv."))
