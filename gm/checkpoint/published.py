"""Where the published weights are on the Hugging Face hub, and where they are looked for on this machine."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from gm import places
from gm.errors import UserError

TINY = "svd_tiny"  # comes with the program
# {version: repository}; the file is <version>.safetensors. All of them are gated: the licence is accepted there.
REPOSITORIES = {
    "svd": "stabilityai/stable-video-diffusion-img2vid",
    "svd_image_decoder": "stabilityai/stable-video-diffusion-img2vid",
    "svd_xt": "stabilityai/stable-video-diffusion-img2vid-xt",
    "svd_xt_image_decoder": "stabilityai/stable-video-diffusion-img2vid-xt",
    "svd_xt_1_1": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
}
VERSIONS = (TINY, "svd", "svd_xt", "svd_xt_1_1", "svd_image_decoder", "svd_xt_image_decoder")


def camera_moves(version: str) -> dict[str, Path]:
    """{name: path} of the LoRA files that come with the program for a version's weights; most have none."""
    return {path.stem: path for path in sorted((places.ASSETS / "camera_moves" / version).glob("*.safetensors"))}


def checkpoints_folder(given: str | Path | None = None) -> Path:
    """The folder of the weights: as given, else SVD_CHECKPOINTS of the environment, else `gm.places.weights`."""
    return Path(given or os.environ.get("SVD_CHECKPOINTS") or places.weights()).expanduser()


def find_checkpoint(version: str, folder: str | Path) -> Path:
    """Path of a version's weights: <version>.safetensors in the folder, or <version>_fp16.safetensors.

    version: one of `VERSIONS`, or the name of a config of one's own without .yaml. Raises UserError where there is
    neither, with what to do.
    """
    if version == TINY:
        return places.ASSETS / f"{TINY}.safetensors"
    looked_for = [Path(folder) / f"{version}{kind}.safetensors" for kind in ("", "_fp16")]
    for path in looked_for:
        if path.is_file():
            return path
    message = f"no weights: there is neither {looked_for[0]} nor {looked_for[1].name} beside it"
    remedy = "give --SVD.checkpoint=FILE, or --checkpoints_dir if they are in another folder"
    if version in REPOSITORIES:
        remedy = f"get them with\n  {download_command(version, folder)}\nor {remedy}"
    raise UserError(f"{message}; {remedy}")


def download_command(version: str, folder: str | Path) -> str:
    """What to type to get the weights of one of `REPOSITORIES` into a folder."""
    where = "" if Path(folder) == checkpoints_folder() else f" --checkpoints_dir={shlex.quote(str(folder))}"
    return f"{places.command('svd_tools/download.py')} {version}{where}"
