"""The package: what it holds, and that it works where there is no checkout."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import imageio_ffmpeg
import pytest

import gm
from gm import places
from gm.errors import UserError
from gm.model_config import load_model_config

ROOT = Path(__file__).resolve().parents[1]
# {folder of the checkout: where it is in the package}
FOLDERS = {
    "gm": "gm",
    "svd_tools": "svd_tools",
    "configs": "gm/configs",
    "assets": "gm/assets",
    "tests/goldens": "svd_tools/goldens",
}
TOP = {"image_to_video.py", "train.py"}


def packaged(file):
    """The name in the package of a file of the checkout, None where it is left out."""
    folder = next((folder for folder in FOLDERS if file.startswith(f"{folder}/")), None)
    return FOLDERS[folder] + file[len(folder) :] if folder else file if file in TOP else None


def run(*command, cwd, **more):
    """What a program prints; it must end well."""
    done = subprocess.run([*map(os.fspath, command)], cwd=cwd, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def project():
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_program_is_a_command():
    commands = re.findall(r'^([\w-]+) = "svd_tools.commands:main"$', project(), re.MULTILINE)
    assert commands == list(places.COMMANDS.values())
    for script in places.COMMANDS:
        assert (ROOT / script).is_file()
    tools = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "svd_tools").glob("*.py")
        if "run_cli(main)" in path.read_text(encoding="utf-8")
    }
    assert tools - places.COMMANDS.keys() == {"svd_tools/operators.py"}  # it writes docs/devices.md


def test_the_version_is_in_one_place():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "pyproject.toml", ROOT / "setup.py")]
    assert not [text for text in texts if re.search(r'\bversion\s*=\s*"\d', text)]
    assert f"\n## {gm.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_command_runs_its_program(monkeypatch):
    from svd_tools import commands

    called = []
    monkeypatch.setattr(importlib.import_module("svd_tools.convert"), "main", called.append)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/svd-convert"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert called == [None] and ended.value.code == 0


def test_configs_that_come_with_the_program_are_found_by_name_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("svd_xt", "svd_xt.yaml", "configs/svd_xt.yaml"):
        assert places.config(name) == places.CONFIGS / "svd_xt.yaml"
    assert load_model_config("svd_xt").sampling.num_frames == 25
    Path("own.yaml").write_text("base: svd_xt.yaml\nsampling: {num_frames: 9}\n")
    assert load_model_config("own.yaml").sampling.num_frames == 9
    with pytest.raises(UserError, match="elsewhere/svd.yaml"):
        load_model_config("elsewhere/svd.yaml")
    Path("svd.yaml").write_text("base: svd_xt.yaml\nsampling: {num_frames: 7}\n")
    assert load_model_config("svd.yaml").sampling.num_frames == 7  # a file that is there is meant


@pytest.fixture(scope="module")
def tracked():
    """Paths of the files that git knows in the checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    return run("git", "ls-files", "-z", cwd=ROOT).strip("\0").split("\0")


@pytest.fixture(scope="module")
def wheel(tracked, tmp_path_factory):
    """Made by `python -m build` as for a release: a source archive of the tracked files, and from it the wheel."""
    folder = tmp_path_factory.mktemp("package")
    for file in tracked:
        (folder / "source" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / "source" / file)
    run(sys.executable, "-m", "build", "--outdir", folder, folder / "source", cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_what_git_tracks(wheel, tracked):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))).decode()
    assert held == set(filter(None, map(packaged, tracked)))
    assert f"\nVersion: {gm.__version__}\n" in metadata
    assert re.search(r"^Requires-Dist: numpy(>=1.26,<2|<2,>=1.26)$", metadata, re.MULTILINE)


@pytest.mark.slow
def test_the_wheel_makes_a_video_where_there_is_no_checkout(wheel, tmp_path):
    environment, place = tmp_path / "environment", tmp_path / "elsewhere"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    # The libraries of this environment lend themselves to it; links of a checkout do not go along.
    libraries = next(environment.glob("lib/python*/site-packages"))
    lent = {Path(importlib.util.find_spec(name).origin).parents[1] for name in ("mindspore", "numpy", "pip")}
    (libraries / "lent.pth").write_text("\n".join(map(str, lent)))
    programs = environment / "bin"
    install = [programs / "python", "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
    run(*install, "--force-reinstall", wheel, cwd=tmp_path)
    place.mkdir()
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SVD_CHECKPOINTS")}

    def told(command, *options):
        return run(programs / command, *options, cwd=place, env=variables)

    code = "from gm import places; print(places.INSTALLED, places.DEMO, places.GOLDENS)"
    installed, demo, goldens = told("python", "-c", code).split()
    assert installed == "True" and Path(demo).is_relative_to(environment)
    told(
        "svd-image-to-video",
        f"--image={demo}",
        "--SVD.num_frames=3",
        "--SVD.sampling_steps=2",
        "--mode=1",
        "--height=64",
        "--width=64",
    )
    assert imageio_ffmpeg.count_frames_and_secs(str(place / "outputs/demo_000.mp4"))[0] == 3
    assert "0 failed" in told("svd-verify", f"{goldens}/scalars_golden.safetensors")
    assert "svd_tiny" in told(
        "svd-convert",
        "--pt_weights_file",
        Path(demo).with_name("svd_tiny.safetensors"),
        "--config",
        "svd_tiny",
        "--out_dir",
        "converted",
    )
    assert "train.epochs" in told("svd-train", "--help") and "--split_scenes" in told("svd-label", "--help")
    refused = subprocess.run(
        [programs / "svd-image-to-video", "--version=svd", f"--image={demo}"],
        cwd=place,
        capture_output=True,
        text=True,
        env=variables,
    )
    assert refused.returncode == 1 and "\n  svd-download svd\n" in refused.stderr
