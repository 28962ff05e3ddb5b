"""Look at training samples before a run is paid for: random ones, exactly as the model will get them.

python svd_tools/preview.py LABELS.csv --data_dir=VIDEOS --output=sheet.png --html=page.html

The samples go through train.py's own data set: the frames, their step, size, crop and mirroring are those of training
with these options. --settings takes the settings.yaml in a run's folder, to see what that run gets.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import base64
import functools
import html
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, List  # noqa: UP035  (jsonargparse needs List on Python 3.9)

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gm import places
from gm.console import progress, say
from gm.data.outputs import write_png
from gm.data.sized_clips import SizedClips
from gm.data.spread import spread
from gm.data.videos import contact_sheet, write_video
from gm.errors import UserError, run_cli
from gm.files import PATH, atomic_path
from gm.parser import Parser
from gm.training.data import open_data
from gm.training.settings import Train, load_settings, size_name

if TYPE_CHECKING:
    from gm.data.clips import ClipDataset

_DATASET = ("frames", "step", "height", "width", "sizes", "flip")
_MARGIN, _TEXT = 8, 18  # pixels of the sheet: around everything, and of the font
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px sans-serif; margin: 1.5em; background: #fff; color: #222 }}
main {{ display: flex; flex-wrap: wrap; gap: 1.5em }}
h1 {{ font-size: 1.2em }}
figure {{ margin: 0; max-width: 512px }} video {{ max-width: 100%; display: block }}
figcaption {{ overflow-wrap: anywhere }}
</style></head><body><h1>{title}</h1><main>
{figures}
</main></body></html>
"""


def preview_settings(path: str | Path, labels: Path, data_dir: Path, changes: Mapping[str, Any]) -> Train:
    """The section train of a YAML file of train.py's options, for the clips of the CSV `labels`.

    changes: {option below train: value}, None for what the file says. UserError as `load_settings`.
    """
    data = "train.dataset.init_args"
    given = {f"train.{name}": value for name, value in changes.items() if value is not None}
    given |= {f"{data}.metadata": str(labels), f"{data}.data_dir": str(data_dir)}
    # Nothing is trained here: no checkpoint is needed, and all clips are shown, held out or not.
    given |= {
        "train.temporal_only": False,
        "train.save": "full",
        "train.validation.share": 0.0,
        "train.validation.metadata": None,
        "train.cache": None,
    }
    overrides = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()]
    return load_settings(path, overrides).train


def draw_samples(train: Train, count: int, draw: int, scheduler: str | None = None) -> tuple[str, list[dict[str, Any]]]:
    """(header, samples): `count` random samples of the first epochs of a run, in random order, and what all share.

    train: a section train. draw: another number draws other samples. scheduler: as of `gm.data.spread.spread`. A sample
    is a dict as of `gm.data.clips.ClipDataset.sample` with frames, uint8 (t, h, w, 3), in place of pixels.
    """
    parts, clips = _opened(train)
    epochs = -(-count // len(clips))
    positions = np.random.default_rng((train.seed, draw)).permutation(epochs * len(clips))[:count].tolist()
    data = train.dataset.init_args
    sizes = ", ".join(f"{size_name(size)} (clips: {len(part)})" for size, part in parts.items())
    header = f"frames {data.frames}, step {data.step}, {sizes}, flip {data.flip:g}, seed {train.seed}"
    found = dict(
        spread(
            functools.partial(_sample, train),
            positions,
            train.loader.workers,
            scheduler,
            desc="reading samples",
            unit="sample",
            given_up=lambda position, reason: (position, UserError(f"sample {position}: {reason}")),
        )
    )
    samples = []
    for position in positions:
        sample = found[position]
        if isinstance(sample, UserError):
            raise sample
        samples.append(sample)
    return header, samples


@functools.lru_cache(maxsize=1)
def _opened(train: Train) -> tuple[dict[tuple[int, int], ClipDataset], SizedClips]:
    """(clips by size, their stream) of a section train: once in a process, a worker of a cluster perhaps."""
    parts = open_data(train)[0]
    return parts, SizedClips(parts, train.loader.batch_size, train.seed)


def _sample(train: Train, position: int) -> tuple[int, dict[str, Any] | UserError]:
    """(position, the sample there or a UserError)."""
    try:
        sample = _opened(train)[1].at(position)
    except UserError as error:
        return position, error
    pixels = sample.pop("pixels").transpose(0, 2, 3, 1)
    return position, {**sample, "frames": np.rint((pixels + 1) * np.float32(127.5)).astype(np.uint8)}


def describe(sample: Mapping[str, Any], data_dir: str | Path) -> str:
    """What a sample is, in two lines of text."""
    path = os.path.relpath(sample["path"], data_dir).encode(errors="surrogateescape").decode(errors="backslashreplace")
    fps = sample["fps_id"]
    mirrored = ", mirrored" if sample["flipped"] else ""
    told = f"motion bucket {sample['motion_bucket_id']:g}, fps_id {fps:.4g} ({fps + 1:.4g} frames per second)"
    size = size_name(sample["frames"].shape[1:3])
    instead = f", in place of {len(sample['failures'])} that cannot be read" if sample["failures"] else ""
    return f"{path}\n{told}, {size} from frame {sample['start']}{mirrored}{instead}"


def write_sheet(header: str, samples: Sequence[Mapping[str, Any]], data_dir: Path, path: Path) -> None:
    """A PNG file with a row of frames for each sample, under its description."""
    strips = [contact_sheet(sample["frames"], len(sample["frames"])) for sample in samples]
    font = ImageFont.load_default(_TEXT)
    line = _TEXT + 4
    width = max(900, *(strip.shape[1] for strip in strips)) + 2 * _MARGIN
    height = line + _MARGIN + sum(strip.shape[0] + 2 * line + 2 * _MARGIN for strip in strips) + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), header, "black", font)
    top = line + 2 * _MARGIN
    for sample, strip in zip(samples, strips):
        for text in describe(sample, data_dir).split("\n", 1):
            pen.text((_MARGIN, top), text.replace("\n", " "), "black", font)
            top += line
        left, above = _MARGIN, top + _MARGIN // 2
        sheet.paste(Image.fromarray(strip), (left, above))
        pen.rectangle((left - 1, above - 1, left + strip.shape[1], above + strip.shape[0]), outline="lightgrey")
        top += strip.shape[0] + 2 * _MARGIN
    write_png(np.asarray(sheet), path)


def write_page(header: str, samples: Sequence[Mapping[str, Any]], data_dir: Path, path: Path) -> None:
    """An HTML file, whole in itself, in which each sample is a video that loops at the rate that the model is told."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for sample in progress(samples, "writing videos", "sample"):
            video = Path(folder) / "video.mp4"
            write_video(sample["frames"], video, sample["fps_id"] + 1)
            content = base64.b64encode(video.read_bytes()).decode()
            caption = "<br>".join(map(html.escape, describe(sample, data_dir).rsplit("\n", 1)))
            shown = f'<video autoplay loop muted playsinline controls src="data:video/mp4;base64,{content}"></video>'
            figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    page = _PAGE.format(title=html.escape(header), figures="\n".join(figures))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("labels", type=PATH, help="the CSV file with the list of clips")
    parser.add_argument("--data_dir", type=PATH, help="folder that the paths in it start from; default: the CSV's own")
    parser.add_argument("--output", type=PATH, help="PNG file to write: a row of frames for each sample")
    parser.add_argument("--html", type=PATH, help="HTML file to write: the samples as looping videos, all in one file")
    parser.add_argument("--count", type=int, default=8, help="samples to show")
    parser.add_argument("--draw", type=int, default=0, help="another number shows other samples of the same training")
    parser.add_argument(
        "--settings",
        type=PATH,
        default=places.CONFIGS / "svd_train.yaml",
        help="YAML file with the options of train.py, such as settings.yaml in a run's folder; the "
        "options below change them",
    )
    parser.add_argument("--frames", type=int, help="frames of a sample")
    parser.add_argument("--step", type=int, help="every step-th frame of the clip")
    parser.add_argument("--height", type=int, help="pixels")
    parser.add_argument("--width", type=int, help="pixels")
    parser.add_argument(
        "--sizes",
        type=List[List[int]],  # noqa: UP006
        help="several sizes, [[height,width],…]: each clip is shown in the nearest",
    )
    parser.add_argument("--flip", type=float, help="probability that a sample is mirrored")
    parser.add_argument(
        "--scheduler",
        help="address of a Dask scheduler, such as tcp://head:8786, whose workers read "
        "the files, which they see under the same paths",
    )
    parser.add_argument("--seed", type=int, help="train.seed: which frames each clip shows when")
    options = parser.parse_args(argv)
    if options.output is None and options.html is None:
        raise UserError("nothing to write: name a picture by --output=sheet.png, a page by --html=page.html, or both")
    if options.count < 1 or options.draw < 0:
        raise UserError(f"--count {options.count} must be at least 1, --draw {options.draw} at least 0")
    changes = {f"dataset.init_args.{name}": getattr(options, name) for name in _DATASET}
    labels = options.labels.absolute()  # a cluster's workers are started elsewhere
    data_dir = labels.parent if options.data_dir is None else options.data_dir.absolute()
    with tempfile.TemporaryDirectory() as folder:  # for what is found out about the files
        changes |= {"seed": options.seed, "output_dir": folder}
        train = preview_settings(options.settings, labels, data_dir, changes)
        header, samples = draw_samples(train, options.count, options.draw, options.scheduler)
    for sample in samples:
        for path, reason in sample["failures"]:
            say(f"left out, another clip takes its place: {path} ({reason})")
    for write, path in ((write_sheet, options.output), (write_page, options.html)):
        if path is not None:
            write(header, samples, data_dir, path)
            print(path)
    return 0


if __name__ == "__main__":
    run_cli(main)
