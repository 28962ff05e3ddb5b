"""What is in a file of weights, in any layout; with two, what the second's training changed.

python svd_tools/inspect_weights.py svd.safetensors
python svd_tools/inspect_weights.py svd.safetensors mine.safetensors --picture=changes.png
"""

# Not called inspect.py, for then Python's own module of that name could not be imported beside it.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gm.checkpoint.lora import find_changes, is_lora
from gm.checkpoint.match import parts_of
from gm.checkpoint.model_file import open_model
from gm.checkpoint.rules import DELTA_KIND, UNET, unused_reason
from gm.checkpoint.writer import check_output
from gm.console import progress_bar
from gm.errors import UserError, run_cli
from gm.parser import Parser

if TYPE_CHECKING:
    from gm.checkpoint.view import View

_READERS = 4  # threads; NumPy's arithmetic leaves Python's lock
_TEMPORAL = (".time_stack.", ".time_pos_embed.", ".time_mixer.", ".time_mix_conv.")
_PIECE = 2**22  # values looked at at a time
_LISTED = 5
# (what the names begin with, what that is called); the first that fits.
_MODULES = (
    ("first_stage_model.decoder.", "VAE decoder"),
    ("first_stage_model.", "VAE encoder, training's"),
    ("conditioner.embedders.3.", "VAE encoder, conditioning's"),
    ("conditioner.embedders.0.", "image encoder (CLIP)"),
)
_ORDER = (
    "UNet time_embed",
    "UNet label_emb",
    "UNet input_blocks",
    "UNet middle_block",
    "UNet output_blocks",
    "UNet out",
)


class Found(NamedTuple):
    """Of one tensor: values, NaNs, infinities; and of its change: the two sums of squares of change and of before."""

    size: int
    nans: int
    infinities: int
    change: float = 0.0
    before: float = 0.0


def module_of(name: str) -> str:
    """The part of the model that a tensor belongs to: for the UNet its block, in the order in which it computes."""
    if name.startswith(UNET):
        pieces = name[len(UNET) :].split(".")
        return f"UNet {'.'.join(pieces[:2]) if pieces[0].endswith('put_blocks') else pieces[0]}"
    return next((word for start, word in _MODULES if name.startswith(start)), name.split(".")[0])


def variant_of(view: View) -> str:
    """Which of SVD's checkpoints it looks like, in words."""
    names = set(view.names())
    parts = parts_of(names)
    if is_lora(names):
        weights, _, naming = find_changes(names, _AnyLayer())
        return f"a LoRA in {naming} naming for {len(weights)} layers"
    if view.metadata.get("format") == DELTA_KIND:
        return f"trained tensors alone, which belong on {view.metadata.get('base_name')}"
    if not parts:
        return "not SVD's: none of its names are known"
    width = f"{UNET}input_blocks.0.0.weight"
    size = view.shape(width)[0] if width in names else None
    kind = {320: "SVD's size", None: ""}.get(size, f"not SVD's size: {size} channels where SVD has 320")
    decoder = "first_stage_model.decoder.conv_out.time_mix_conv.weight"
    frames = (
        (
            "video decoder (svd, svd_xt or svd_xt_1_1, which only differ in values)"
            if decoder in names
            else "frame-wise decoder (svd_image_decoder or svd_xt_image_decoder)"
        )
        if "VAE" in parts
        else ""
    )
    missing = sorted({"UNet", "VAE", "image encoder"} - parts)
    return "; ".join(word for word in (frames, kind, f"without {' and '.join(missing)}" if missing else "") if word)


class _AnyLayer:
    """Stands for `gm.checkpoint.lora.Names` where no model is at hand: every layer is one."""

    @staticmethod
    def weight(layer: str) -> str:
        return layer


def look(view: View, name: str, other: View | None = None) -> Found:
    """`Found` of a tensor; other: the view with the tensor's values before training."""
    array = view.read(name).reshape(-1)
    before = other.read(name).reshape(-1) if other is not None else None
    nans = infinities = 0
    change = squares = 0.0
    for start in range(0, array.size, _PIECE):
        piece = array[start : start + _PIECE]
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(piece).all():
            nans += int(np.isnan(piece).sum())
            infinities += int(np.isinf(piece).sum())
        if before is not None:
            old = before[start : start + _PIECE].astype(np.float32)
            difference = piece.astype(np.float32) - old
            change += float(difference @ difference)
            squares += float(old @ old)
    return Found(array.size, nans, infinities, change, squares)


def examine(view: View, names: Sequence[str], other: View | None = None) -> dict[str, Found]:
    """{name: `Found`}; a few tensors in memory at a time."""
    found = {}
    with ThreadPoolExecutor(_READERS) as pool, progress_bar(len(names), "reading", "tensor") as bar:
        for name, result in zip(names, pool.map(lambda name: look(view, name, other), names)):
            found[name] = result
            bar.update()
            view.release()
            if other is not None:
                other.release()
    return found


def by_module(found: Mapping[str, Found]) -> dict[str, list[tuple[str, Found]]]:
    """{module: [(name, Found)]} in the order of the computation."""
    groups: dict[str, list[tuple[str, Found]]] = {}
    for name, result in found.items():
        groups.setdefault(module_of(name), []).append((name, result))
    return dict(sorted(groups.items(), key=lambda item: _place(item[0])))


def _place(module: str) -> tuple[int, int, str]:
    head, _, number = module.partition(".")
    return _ORDER.index(head) if head in _ORDER else len(_ORDER), int(number) if number.isdigit() else 0, module


def describe(view: View, found: Mapping[str, Found]) -> list[str]:
    """The lines for one file."""
    kinds = Counter(view.precision(name) for name in view.names())
    total = sum(result.size for result in found.values())
    temporal = sum(result.size for name, result in found.items() if any(part in name for part in _TEMPORAL))
    lines = [
        f"{view.path}: {view.description}",
        f"it is: {variant_of(view)}",
        f"size: {view.size() / 1e9:.3f} GB, {len(found)} tensors, {total:,} values, {temporal / max(total, 1):.1%} of "
        "them in temporal layers",
        "precision: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()),
        f"not used by SVD: {sum(unused_reason(name) is not None for name in found)} tensors",
    ]
    lines += [f"metadata {key}: {value[:200]}" for key, value in list(view.metadata.items())[:20]]
    lines += [f"left aside: {', '.join(view.ignored[:_LISTED])}{' …' if len(view.ignored) > _LISTED else ''}"] * bool(
        view.ignored
    )
    lines += ["", "| module | tensors | values | temporal |", "|---|---|---|---|"]
    for module, members in by_module(found).items():
        size = sum(result.size for _, result in members)
        part = sum(result.size for name, result in members if any(word in name for word in _TEMPORAL))
        lines.append(f"| {module} | {len(members)} | {size:,} | {part / max(size, 1):.0%} |")
    bad = [(name, result) for name, result in found.items() if result.nans or result.infinities]
    lines.append(f"\n{len(bad)} tensors with NaN or infinite values" + ":" * bool(bad))
    return lines + [f"  {name}: {result.nans} NaN, {result.infinities} infinite" for name, result in bad[:20]]


def describe_changes(found: Mapping[str, Found]) -> list[str]:
    """The table of what changed, by module: |after - before| / |before|, of all values and of the temporal ones."""
    lines = ["| module | changed tensors | relative change | temporal layers | other layers |", "|---|---|---|---|---|"]
    for module, members in [*by_module(found).items(), ("all", list(found.items()))]:
        temporal = [item for item in members if any(word in item[0] for word in _TEMPORAL)]
        others = [item for item in members if item not in temporal]
        changed = sum(result.change > 0 for _, result in members)
        shown = [f"{relative(group):.2e}" if group else "–" for group in (members, temporal, others)]
        lines.append(f"| {module} | {changed} of {len(members)} | {' | '.join(shown)} |")
    return lines


def relative(members: Iterable[tuple[str, Found]]) -> float:
    """The norm of the change relative to that of the values before, over several tensors."""
    before = sum(result.before for _, result in members)
    change = sum(result.change for _, result in members)
    return math.sqrt(change / before) if before else float("inf") if change else 0.0


def draw(found: Mapping[str, Found], path: str | Path) -> None:
    """A bar for every module, by the size of its change, in logarithmic scale, as a PNG file."""
    from PIL import Image, ImageDraw

    from gm.data.outputs import write_png

    rows = [(module, relative(members)) for module, members in by_module(found).items()]
    finite = [value for _, value in rows if 0 < value < math.inf]
    low, high = (math.floor(math.log10(min(finite))), math.ceil(math.log10(max(finite)))) if finite else (-6, 0)
    high = max(high, low + 1)
    left, width, height = 220, 600, 20
    image = Image.new("RGB", (left + width + 120, height * (len(rows) + 2)), "white")
    pen = ImageDraw.Draw(image)
    for power in range(low, high + 1):
        x = left + width * (power - low) / (high - low)
        pen.line((x, height, x, height * (len(rows) + 1)), fill=(220, 220, 220))
        pen.text((x - 10, 4), f"1e{power}", fill="black")
    for i, (module, value) in enumerate(rows):
        top = height * (i + 1)
        pen.text((8, top + 4), module, fill="black")
        length = width * (math.log10(value) - low) / (high - low) if 0 < value < math.inf else 0
        pen.rectangle((left, top + 3, left + max(length, 0), top + height - 4), fill=(40, 110, 180))
        pen.text((left + max(length, 0) + 6, top + 4), f"{value:.1e}" if value else "same", fill="black")
    write_png(np.asarray(image), path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("files", nargs="+", help="one file or folder of weights, or two: before and after training")
    parser.add_argument(
        "--use_ema",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="look at the running mean (EMA) that lies beside the weights, in the last file",
    )
    parser.add_argument("--picture", help="PNG file to write of what changed")
    options = parser.parse_args(argv)
    if len(options.files) > 2:
        raise UserError(f"{len(options.files)} files: name one, or two to compare")
    if options.picture and len(options.files) == 1:
        raise UserError("--picture shows what changed: name two files")
    view = open_model(options.files[-1], use_ema=options.use_ema)
    if len(options.files) == 1:
        print("\n".join(describe(view, examine(view, view.names()))))
        return 0
    before = open_model(options.files[0])
    if options.picture:
        check_output(options.picture, [*before.files(), *view.files()], overwrite=True)
    compare(before, view, options.picture)
    return 0


def compare(before: View, after: View, picture: str | Path | None = None) -> None:
    """Print what changed from one view to another, and draw it. UserError if they have no tensor in common."""
    if is_lora(after.names()):
        raise UserError(f"{after.path} is a LoRA: merge it (svd_tools/merge.py), then compare")
    first, second = set(before.names()), set(after.names())
    shapes = [name for name in second & first if before.shape(name) != after.shape(name)]
    common = [name for name in after.names() if name in first and name not in shapes]
    print(f"before: {before.path}: {before.description}\nafter:  {after.path}: {after.description}")
    for words, names in (("before only", first - second), ("after only", second - first), ("of other shapes", shapes)):
        if names:
            print(f"{len(names)} tensors {words}: {', '.join(sorted(names)[:_LISTED])}{' …' * (len(names) > _LISTED)}")
    if not common:
        raise UserError(f"{before.path} and {after.path} have no tensor in common")
    found = examine(after, common, before)
    print("\n" + "\n".join(describe_changes(found)))
    bad = sum(bool(result.nans or result.infinities) for result in found.values())
    if bad:
        print(f"\n{bad} tensors after training hold NaN or infinite values: look at {Path(after.path)} alone")
    if picture:
        draw(found, picture)
        print(f"\n{picture}")


if __name__ == "__main__":
    run_cli(main)
