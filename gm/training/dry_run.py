"""What a run would do, without doing it: settings, trainable parameters, memory."""

from __future__ import annotations

from collections import Counter

from gm.config import to_yaml
from gm.memory import report
from gm.model import COMPONENTS
from gm.training.memory import needed, trainable
from gm.training.plan import Plan
from gm.training.settings import Train


def describe(plan: Plan) -> str:
    """The text that --dry_run prints for a `Plan`."""
    lines = ["# settings", to_yaml(plan.settings).rstrip(), "", "# trainable parameters"]
    counts = trainable_counts(plan.base.shapes, plan.train)
    lines += [f"{values:>15,}  {module}" for module, values in counts.items()]
    lines += [f"{sum(counts.values()):>15,}  in all", "", "# the run"]
    lines += [
        f"base: {plan.base.describe()}",
        f"{len(plan.dataset)} clips, {plan.total} steps of "
        f"{plan.clips_of_a_step} clips; "
        f"{sum(map(len, plan.held_out.values()))} clips held out",
        *plan.describe_sizes(),
        "",
        "# memory of one device, estimated",
        report(needed(plan)),
    ]
    return "\n".join(lines)


def trainable_counts(shapes: dict[str, tuple[int, ...]], train: Train) -> dict[str, int]:
    """{module of the UNet such as "input_blocks.1": number of values that would be trained}."""
    counts: Counter[str] = Counter()
    for name, values in trainable(shapes, train).items():
        parts = name[len(COMPONENTS["unet"].prefix) :].split(".")
        counts[".".join(parts[:2] if parts[0].endswith("blocks") else parts[:1])] += values
    return dict(counts)
