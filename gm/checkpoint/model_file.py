"""Open a model's weights in any layout that is in use, under the original release's names.

The content decides what it is: the original single file and this project's, one part of it, the folders and single
parts of diffusers, the older MindSpore port's file; wrapped by a training program, with a running mean beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from gm.checkpoint import folder as folders
from gm.checkpoint.diffusers_names import CLIP, IGNORED, PARTS, UNET, VAE, Table, change_of, structure_of
from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.match import parts_of
from gm.checkpoint.reader import Reader
from gm.checkpoint.rules import original_name
from gm.checkpoint.view import CONVOLUTION, STACKED, THROUGH, TRANSPOSED, Source, View
from gm.errors import UserError

ORIGINAL = ("model.diffusion_model.", "first_stage_model.", "conditioner.")
# What the names of a part alone begin with in diffusers' naming, or in the original's without the part's own name.
_DIFFUSERS = (
    (UNET, ("down_blocks.", "mid_block.", "up_blocks.", "time_embedding.", "add_embedding.")),
    (VAE, ("encoder.down_blocks.", "encoder.mid_block.", "decoder.mid_block.", "decoder.up_blocks.")),
    (CLIP, ("vision_model.",)),
)
_BARE = (
    ("diffusion_model.", "model."),
    ("input_blocks.", ORIGINAL[0]),
    ("middle_block.", ORIGINAL[0]),
    ("output_blocks.", ORIGINAL[0]),
    ("time_embed.", ORIGINAL[0]),
    ("label_emb.", ORIGINAL[0]),
    ("out.", ORIGINAL[0]),
)
_MEANS = ("model_ema.", "ema_model.", "ema.")
_USE_EMA = "image_to_video.py --SVD.use_ema, train.py --train.use_ema, the tools --use_ema"
_SAMPLING, _FIRST_STAGE = "conditioner.embedders.3.encoder.", "first_stage_model."
_CHANGES = {"transposed": TRANSPOSED, "matrix": CONVOLUTION, None: None}


def open_model(path: str | Path, base: str | Path | None = None, use_ema: bool = False) -> View:
    """Open weights for reading under the original's names.

    Args:
        path: a file, an index of shards, or a folder.
        base: weights, opened in the same way, that complete those of `path` where they are a part of a model.
        use_ema: take a training's running mean (EMA) in place of its weights: `model_ema.…`, or the folder unet_ema.

    Returns a `view.View`; its `description` says in words what it is. Names that no rule knows are left as they are.
    Raises UserError for what cannot be read, a tensor that is there under two names, a base that is not needed, or a
    running mean that is not there.
    """
    view = _open(Path(path), use_ema)
    if base is not None:
        under = _open(Path(base), False)
        added = {name: source for name, source in under.sources.items() if name not in view.sources}
        if not added:
            raise UserError(f"{path} ({view.description}) is a whole model: leave out the base {base}")
        described = f"{base}{_mixed(view.sources, added)}: {under.description}"
        description = f"{view.description}; completed by {described}"
        return View(path, {**view.sources, **added}, view.ignored, view.metadata, description)
    return view


def _mixed(own: Iterable[str], added: Iterable[str]) -> str:
    """Words for tensors of a base that complete a part which is there itself: "" where it gives whole parts alone."""
    parts = parts_of(own)
    counts = Counter(part for name in added for part in parts_of([name]) if part in parts)
    return "".join(f" ({count} tensors of the {part} itself)" for part, count in sorted(counts.items()))


def _open(path: Path, use_ema: bool) -> View:
    parts: dict[str | None, Path] = {None: path}
    if path.is_dir():
        parts = folders.parts_of(path, use_ema) or parts
        use_ema = use_ema and None in parts  # else they are the folder's own
    files = {part: _open_file(file) for part, file in parts.items()}
    named, ignored, words = {}, [], []
    for part, file in files.items():
        found, aside, said = _weights_or_means(_cleaned(file), use_ema, file.path)
        part = part or _part_of(found)
        named.update({f"{part}.{name}" if part else name: source for name, source in found.items()})
        ignored += [*file.ignored, *aside]
        words += [*([file.description] if file.description else []), *said]
    diffusers = {name: source for name, source in named.items() if name.split(".")[0] in PARTS}
    sources: dict[str, Source] = {}
    for name, source in [
        *((_with_part(name), source) for name, source in named.items() if name not in diffusers),
        *_from_diffusers(diffusers).items(),
    ]:
        if name in sources:
            own, other = (found.parts[0][1] for found in (sources[name], source))
            raise UserError(
                f"{path} holds two models, or parts of them: {own} and {other} are both {name}, and nothing says "
                "which of them is meant: save it with one"
            )
        sources[name] = source
    view = View(path, sources, ignored, next(iter(files.values())).metadata)
    kind = _layout(sources) if not diffusers else f"diffusers {'folder' if path.is_dir() else 'file'}"
    view.description = ", ".join([f"{kind} ({_holds(sources)})", *words, _precisions(view)])
    return view


def _open_file(path: str | Path) -> Reader:
    return folders.open_shards(path) if folders.is_sharded(path) else open_checkpoint(path)


def _cleaned(file: Reader) -> dict[str, Source]:
    """{name: Source} without what wrappers and older ports add to names; twice the same keep what they had."""
    found: dict[str, list[str]] = {}
    for name in file.names():
        found.setdefault(original_name(name), []).append(name)
    return {name if len(stored) == 1 else own: Source.of(file, own) for name, stored in found.items() for own in stored}


def _weights_or_means(
    named: dict[str, Source],
    use_ema: bool,
    path: str | Path,
) -> tuple[dict[str, Source], list[str], list[str]]:
    """({name: Source}, names left aside, words) of a file that may have a running mean beside the weights."""
    averaged = {name: source for name, source in named.items() if name.startswith(_MEANS)}
    weights = {name: source for name, source in named.items() if name not in averaged}
    if not use_ema:
        said = [f"running mean (EMA) of {len(averaged)} left aside"] if averaged else []
        if averaged and not weights:
            raise UserError(f"{path} holds a running mean (EMA) alone: say that you want it ({_USE_EMA})")
        return weights, list(averaged), said
    taken = {name: found for name in weights for found in [_mean_of(name, averaged)] if found}
    if not taken and not weights:
        taken = {name.split(".", 1)[1]: name for name in averaged}
    if not taken:
        raise UserError(f"{path} has no running mean (EMA) of its weights beside them: leave that option out")
    chosen = {**weights, **{name: averaged[found] for name, found in taken.items()}}
    left = [name for name in averaged if name not in taken.values()]
    return chosen, left, [f"running mean (EMA) of {len(taken)} weights"]


def _mean_of(name: str, averaged: dict[str, Source]) -> str | None:
    """The name that the running mean of a weight has among `averaged`, or None.

    ldm's LitEma, whose owner is the model's part called `model`, leaves that and all dots out.
    """
    inner = name[len("model.") :] if name.startswith("model.") else name
    candidates = [f"{start}{end}" for start in _MEANS for end in (name, inner, inner.replace(".", ""))]
    return next((found for found in candidates if found in averaged), None)


def _part_of(named: Iterable[str]) -> str | None:
    """The part that names in diffusers' naming belong to, None if they are not in it."""
    if any(name.startswith(ORIGINAL) for name in named):
        return None
    return next((part for part, starts in _DIFFUSERS if any(name.startswith(starts) for name in named)), None)


def _with_part(name: str) -> str:
    """A name of the original's UNet alone, with what it has in front of it in the whole model."""
    return next((added + name for start, added in _BARE if name.startswith(start)), name)


def _from_diffusers(named: dict[str, Source]) -> dict[str, Source]:
    """{original name: Source} of {diffusers name with its part in front: Source}; unknown ones are left as they are."""
    table, sources = Table(structure_of(named)), {}
    rows: dict[str, dict[int, tuple[str, Source]]] = {}  # thirds of q, k and v together
    for name, source in named.items():
        if name == IGNORED:
            continue
        found = table.original(name)
        if found is None:
            sources[name] = source
        elif found[1] is None:
            sources[found[0]] = source._replace(change=_CHANGES[change_of(found[0])])
        else:
            rows.setdefault(found[0], {})[found[1]] = (name, source)
    for original, thirds in rows.items():
        if len(thirds) == 3:
            sources[original] = Source(tuple(thirds[row][1].parts[0] for row in range(3)), STACKED)
        else:
            sources.update(dict(thirds.values()))
    return {**sources, **_other_encoder(sources)}


def _other_encoder(sources: dict[str, Source]) -> dict[str, Source]:
    """The VAE's encoder is there twice in the original: for the conditioning picture and for training's targets.

    Of the video VAE the second has no quant_conv behind it: its last convolution does what both do together.
    """
    last, quant = _SAMPLING + "encoder.conv_out.", _SAMPLING + "quant_conv."
    frame_wise = any(name.startswith(_FIRST_STAGE + "post_quant_conv.") for name in sources)
    same = (_SAMPLING + "encoder.", quant) if frame_wise else (_SAMPLING + "encoder.",)
    added = {_FIRST_STAGE + name[len(_SAMPLING) :]: source for name, source in sources.items() if name.startswith(same)}
    behind = [name for name in (last + "weight", last + "bias", quant + "weight", quant + "bias") if name in sources]
    if len(behind) == 4 and not frame_wise:
        weight, bias, quant_weight, quant_bias = (sources[name].parts[0] for name in behind)
        added[_FIRST_STAGE + "encoder.conv_out.weight"] = Source((weight, quant_weight), THROUGH)
        added[_FIRST_STAGE + "encoder.conv_out.bias"] = Source((bias, quant_weight, quant_bias), THROUGH)
    return {name: source for name, source in added.items() if name not in sources}


def _layout(sources: dict[str, Source]) -> str:
    known = any(name.startswith(ORIGINAL) for name in sources)
    return "original naming" if known else "unknown naming"


def _holds(sources: dict[str, Source]) -> str:
    """The parts of the model that are there, in words."""
    starts = {"UNet": ORIGINAL[0], "VAE": _FIRST_STAGE + "decoder.", "image encoder": "conditioner.embedders.0."}
    found = [word for word, start in starts.items() if any(name.startswith(start) for name in sources)]
    return ", ".join(found) if found else f"{len(sources)} tensors"


def _precisions(view: View) -> str:
    """The types of the tensors, the most frequent first."""
    counts = Counter(view.precision(name) for name in view.names())
    return " and ".join(kind for kind, _ in counts.most_common(3))
