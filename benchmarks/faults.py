"""Kill the programs at random moments, let them go on, and compare every bit with a run that nobody disturbed.

python benchmarks/faults.py --output_dir=build/faults --points=100

Needs no download: a very small model with random weights, clips that are drawn. Moments are counted in the program's
own processor time, so that other work on the machine does not shift them; they are spread evenly over the run, at a
random place in each part. After a kill every file that has its final name must be whole, and after going on the results
must have the same bits and nothing else may be left in the folder. The programs run in forks of a process that has
imported the libraries: what is killed is the programs' own work. Killed itself, it goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from forks import Fork, import_libraries
from jsonargparse import ArgumentParser
from safetensors.numpy import load_file, save_file

from gm.checkpoint.formats import open_checkpoint
from gm.console import progress_bar
from gm.data.outputs import make_folder, write_json, write_png
from gm.data.videos import write_gif
from gm.errors import UserError, run_cli

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "tests" / "small_model.yaml"
RECIPE = ROOT / "tests" / "small_recipe" / "recipe.yaml"
_TICKS = os.sysconf("SC_CLK_TCK")
_TRIES = 3  # of a moment, where the program had ended before it
_LIMIT = 900  # seconds of a run that goes on after a kill


class Program(NamedTuple):
    """command, going_on: functions of (folder of the inputs, of the outputs) -> command line, the second after a kill;
    results: pattern of the files to compare, below the output folder."""

    command: Callable
    going_on: Callable
    results: str


def _train(*more):
    def command(inputs, output):
        data = "--train.dataset.init_args."
        return [
            "train.py",
            f"--svd_config={MODEL}",
            f"--train.pretrained={inputs / 'small.safetensors'}",
            f"--train.output_dir={output / 'run'}",
            f"{data}data_dir={inputs / 'clips'}",
            f"{data}metadata={inputs / 'labels.csv'}",
            f"{data}frames=2",
            f"{data}step=2",
            f"{data}height=16",
            f"{data}width=16",
            "--environment.device_target=CPU",
            "--train.loader.workers=1",
            "--train.epochs=1000",
            "--train.max_steps=12",
            "--train.checkpoint.every=2",
            "--train.optimizer.learning_rate=1e-3",
            *(option.format(output=output) for option in more),
        ]

    return Program(command, lambda *folders: [*command(*folders), "--train.resume=latest"], "run/weights/*")


def _convert(inputs, output):
    return [
        "svd_tools/convert.py",
        f"--pt_weights_file={inputs / 'small.safetensors'}",
        f"--config={MODEL}",
        f"--out_dir={output}",
        "--dtype=float16",
    ]


def _label(inputs, output):
    return ["svd_tools/label_videos.py", str(inputs / "clips"), f"--output={output / 'labels.csv'}"]


def _generate(mode):
    def command(inputs, output):
        return [
            "image_to_video.py",
            f"--image={inputs / 'pictures'}",
            f"--output_dir={output}",
            f"--mode={mode}",
            f"--SVD.config={MODEL}",
            f"--SVD.checkpoint={inputs / 'small.safetensors'}",
            "--SVD.num_frames=3",
            "--SVD.sampling_steps=3",
            "--device_target=CPU",
        ]

    return Program(command, command, "*.mp4")


def _pretrain(inputs, output):
    return ["svd_tools/pretrain_tiny.py", f"--config={RECIPE}", f"--output_dir={output}"]


PROGRAMS = {
    "train": _train("--environment.mode=1"),
    "train_graph": _train("--environment.mode=0", "--train.ema=True"),
    "train_cache": _train("--environment.mode=1", "--train.cache={output}/cache", "--train.lora.rank=2"),
    "convert": Program(_convert, lambda *folders: [*_convert(*folders), "--overwrite"], "*.safetensors"),
    "label": Program(_label, lambda *folders: [*_label(*folders), "--resume"], "*.csv"),
    "pretrain": Program(_pretrain, _pretrain, "svd_tiny.safetensors"),
    "generate": _generate(1),
    "generate_graph": _generate(0),
}


def prepare(folder):
    """The model, its weights, six clips with labels and two pictures."""
    random_pixels = np.random.default_rng(0)
    make_folder(folder / "clips")
    make_folder(folder / "pictures")
    command = ["svd_tools/make_untrained.py", f"--config={MODEL}", f"--output={folder / 'small.safetensors'}"]
    fault = _finish(command, folder / "log")
    if fault:
        raise UserError(f"{command[0]}: {fault}")
    _disturb(folder / "small.safetensors", random_pixels)
    lines = ["path,length,motion_bucket_id"]
    for k in range(6):
        frames = np.full((8, 24, 24, 3), 40 * k, np.uint8)
        for i, frame in enumerate(frames):
            frame[4 + i : 10 + i, 3 * k : 3 * k + 6] = 255 - 40 * k
        write_gif(frames, folder / "clips" / f"{k}.gif", 8)
        lines.append(f"{k}.gif,8,{50 + 20 * k}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    for name in "ab":
        write_png(random_pixels.integers(0, 256, (16, 16, 3), np.uint8), folder / "pictures" / f"{name}.png")


def _disturb(path, random):
    """Make all of the UNet's weights random: where its last layer is zero, as in a new model, there is no gradient."""
    tensors = load_file(path)
    for name in sorted(tensors):
        if name.startswith("model.diffusion_model."):
            tensors[name] = tensors[name] + random.normal(0, 0.05, tensors[name].shape).astype(np.float32)
    save_file(tensors, path)


def _start(command, log):
    """A program and its arguments in a fork, with its output in a file."""

    def program():
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")

    return Fork(program, log, ROOT)


def _finish(command, log):
    """Run a program to its end; what is wrong, or None."""
    fork = _start(command, log)
    if not fork.wait(_LIMIT):
        return f"no end within {_LIMIT} s"
    return f"failed with {fork.returncode}: {fork.text()[-500:]}" if fork.returncode else None


def _computed(process):
    """Seconds that a process, by its number, has computed so far, and whether it still runs."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS, fields[0] != "Z"


def _kill_at(command, moment, log):
    """Start a program and kill it at a moment; whether it was still running, and its processor time."""
    fork = _start(command, log)
    while (now := _computed(fork.pid))[1] and now[0] < moment:
        time.sleep(0.002)
    fork.kill()
    return fork.returncode == -signal.SIGKILL, now[0]


def _results(folder, pattern):
    """{name: hash of the content}; of a video's name without its number."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}


def _faults(output, program, expected, going_on):
    """What is wrong in an output folder: after a kill, and with going_on=False after the run that went on."""
    found = []
    for path in output.rglob("*.safetensors"):
        if not any(part.startswith(".") for part in path.relative_to(output).parts):
            try:
                open_checkpoint(path)
            except UserError as error:
                found.append(str(error))
    if going_on:
        return found
    hidden = [path for path in output.rglob(".*") if path.name != ".labels.csv.folder"]  # which stays beside its list
    found += [f"left behind: {path.relative_to(output)}" for path in hidden]
    results = _results(output, program.results)
    found += [f"{name} has other bits" for name in results if name in expected and results[name] != expected[name]]
    return found + [f"{name} is missing" for name in expected if name not in results]


def strike(name, folder, points, seed):
    """Kill one program `points` times; a row of the table."""
    program, inputs, output, log = PROGRAMS[name], folder / "inputs", folder / name, folder / f"{name}.log"

    def fresh():
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        return program.command(inputs, output)

    _, length = _kill_at(fresh(), float("inf"), log)
    expected = _results(output, program.results)
    if not expected:
        raise UserError(f"{name}: the undisturbed run left no results in {output}; {log} is its output")
    faults = [f"undisturbed: {fault}" for fault in _faults(output, program, expected, False)]

    def point(k):
        nonlocal length
        share = (k + random.Random(f"{seed} {name} {k}").random()) / points
        for _ in range(_TRIES):  # the first run may have had more to do, such as compiling
            moment = length * share
            was_running, used = _kill_at(fresh(), moment, log)
            if was_running:
                break
            length = min(length, used)
        found = _faults(output, program, expected, True)
        failed = _finish(program.going_on(inputs, output), log)
        found += [f"going on {failed}"] * bool(failed) + _faults(output, program, expected, False)
        return {"killed": was_running, "faults": [f"killed at {moment:.2f} s: {fault}" for fault in found]}

    done = folder / f"{name}-{points}-{seed}.jsonl"
    rows = [json.loads(line) for line in done.read_text().splitlines()] if done.exists() else []
    with progress_bar(points, name, "kill") as bar:
        bar.update(len(rows))
        for k in range(len(rows), points):
            rows.append(point(k))
            with open(done, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            for fault in rows[-1]["faults"]:
                bar.write(fault, file=sys.stderr)
            bar.update()
    shutil.rmtree(output, ignore_errors=True)
    killed = sum(row["killed"] for row in rows)
    return {
        "program": name,
        "seconds": length,
        "killed": killed,
        "finished before": points - killed,
        "faults": faults + [fault for row in rows for fault in row["faults"]],
    }


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", required=True, help="folder for everything; faults.json is the result")
    parser.add_argument("--points", type=int, default=100, help="kills of each program")
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS), help="which ones")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(argv)
    folder = Path(options.output_dir).resolve()
    make_folder(folder)
    import_libraries()
    if not (folder / "inputs" / "pictures" / "b.png").exists():
        prepare(folder / "inputs")
    rows = []
    for name in options.programs:
        rows.append(strike(name, folder, options.points, options.seed))
        write_json(rows, folder / "faults.json")
        print(
            "{program:16s} {killed:4d} killed, {finished before} finished before; ".format(**rows[-1])
            + f"{len(rows[-1]['faults'])} faults"
        )
        for fault in rows[-1]["faults"]:
            print(f"  {fault}")
    return 1 if any(row["faults"] for row in rows) else 0


if __name__ == "__main__":
    run_cli(main)
