"""A very small model, a checkpoint of it and three moving clips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from gm import ops
from gm.checkpoint.writer import write_safetensors
from gm.model import expected_parameters, load_model_config
from gm.networks.init import initial_values
from tests import signals

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def model_path():
    return ROOT / "tests" / "small_model.yaml"


@pytest.fixture(scope="session")
def checkpoint(model_path, tmp_path_factory):
    """Initial values, but none of the weights zero, so that every parameter that can have a gradient has one."""
    shapes = expected_parameters(load_model_config(model_path))
    random = np.random.default_rng(0)

    def read(name):
        values = initial_values(name, shapes, 1)
        if not values.any() and len(shapes[name]) > 1:
            values = (0.05 * random.standard_normal(shapes[name])).astype(np.float32)
        return values

    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    write_safetensors(path, [(name, shape, np.float32) for name, shape in shapes.items()], read)
    return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Folder with three gifs of a moving square and labels.csv."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["path,length,motion_bucket_id"]
    for k in range(3):
        frames = np.full((8, 24, 24, 3), 40 * k, np.uint8)
        for i, frame in enumerate(frames):
            frame[4 + i : 10 + i, 3 * k : 3 * k + 8] = (255, 200 - 60 * k, 30 * i)
        imageio.imwrite(folder / f"{k}.gif", frames, duration=125)
        lines.append(f"{k}.gif,8,{50 + 50 * k}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def several_sizes(tmp_path_factory, clips):
    """Options of a data set with sizes: the three square clips and two that are three times as wide as high."""
    folder = tmp_path_factory.mktemp("several_sizes")
    lines = (clips / "labels.csv").read_text().splitlines()
    for name in ("0.gif", "1.gif", "2.gif"):
        (folder / name).write_bytes((clips / name).read_bytes())
    for k in (3, 4):
        frames = np.random.default_rng(k).integers(0, 255, (8, 16, 48, 3), np.uint8)
        imageio.imwrite(folder / f"{k}.gif", frames, duration=125)
        lines.append(f"{k}.gif,8,{20 * k}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    data = "train.dataset.init_args"
    return [f"{data}.data_dir={folder}", f"{data}.metadata={folder / 'labels.csv'}", f"{data}.sizes=[[16,16],[8,24]]"]


@pytest.fixture
def arguments(model_path, checkpoint, clips):
    """Function of (output folder, key=value …) -> command line of a small PyNative run."""

    def make(output, *more):
        given = {
            "train.output_dir": output,
            "train.pretrained": checkpoint,
            "environment.mode": 1,
            "environment.device_target": "CPU",
            "train.dataset.init_args.data_dir": clips,
            "train.dataset.init_args.metadata": clips / "labels.csv",
            "train.dataset.init_args.frames": 2,
            "train.dataset.init_args.step": 2,
            "train.dataset.init_args.height": 16,
            "train.dataset.init_args.width": 16,
            "train.loader.workers": 1,
            "train.optimizer.learning_rate": 1e-3,
            "train.epochs": 1000,
            "train.max_steps": 2,
        }
        given.update(item.split("=", 1) for item in more)
        return [f"--svd_config={model_path}", *(f"--{name}={value}" for name, value in given.items())]

    return make


@pytest.fixture
def start():
    """Function of a command line -> the running process of train.py; what is still running at the end is killed.

    launcher: a command that runs Python scripts, instead of this Python; it finds the same one in PATH.
    """
    running = []

    def make(argv, launcher=(sys.executable,)):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        process = subprocess.Popen(
            [*launcher, str(ROOT / "train.py"), *argv],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PATH": path},
            preexec_fn=signals.heed,
        )
        running.append(process)
        return process

    yield make
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def pynative():
    ops.set_device("CPU", ops.PYNATIVE_MODE)


@pytest.fixture
def read_metrics():
    """Function of a run's folder -> the lines of metrics.jsonl that are complete."""

    def read(folder):
        path = Path(folder) / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    return read
