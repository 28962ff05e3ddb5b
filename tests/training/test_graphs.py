"""Graphs that training keeps: under which conditions, and that no bit depends on it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gm import places
from gm.training import graphs
from gm.training.settings import load_settings


def trainer(*changes, step=0, total=100, held_out=3, sample=None, dtype=np.float16, sizes=1):
    """What `gm.training.graphs` asks of a `Trainer`."""
    given = [
        "train.dataset.init_args.data_dir=videos",
        "train.dataset.init_args.metadata=labels.csv",
        "train.pretrained=svd.safetensors",
        *changes,
    ]
    settings = load_settings(places.CONFIGS / "svd_train.yaml", given)
    base = SimpleNamespace(shapes={"weight": (2, 2)}, dtype=lambda name: np.dtype(dtype))
    clips = {(16, 16 * k): range(held_out) for k in range(1, sizes + 1)}
    plan = SimpleNamespace(
        settings=settings,
        train=settings.train,
        config={"model": {"width": 4}},
        base=base,
        total=total,
        training=clips,
        held_out=clips if held_out else {},
    )
    samples = None if sample is None else SimpleNamespace(image=np.zeros(sample))
    return SimpleNamespace(
        plan=plan, train=settings.train, state=SimpleNamespace(step=step), samples=samples, validation=held_out or None
    )


def test_another_mindspore_compiles_for_itself(monkeypatch):
    here = graphs.conditions(trainer())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert graphs.conditions(trainer()) != here


def sampled(every):
    return [f"sample.every={every}", f"sample.image={places.DEMO}"]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ((), True),
        (("train.optimizer.learning_rate=1e-4",), True),
        (("train.seed=7", "train.output_dir=there"), True),
        (("train.max_steps=5",), True),
        (("train.loader.batch_size=2",), False),
        (("train.optimizer.beta2=0.9",), False),
        (("train.dataset.init_args.frames=3",), False),
        (("train.lora.rank=4",), False),
        (("train.ema=true",), False),
        (("train.cache=folder",), False),
        (("train.recompute=true",), False),
        (("train.amp_level=O2",), False),
        (("train.validation.clips=2",), False),
        (("environment.fast_float32=true",), False),
    ],
)
def test_settings_that_a_graph_holds_are_conditions(changes, same):
    assert (graphs.conditions(trainer(*changes)) == graphs.conditions(trainer())) == same


@pytest.mark.parametrize(
    "change",
    [
        {"step": 1},
        {"held_out": 0},
        {"dtype": np.float32},
        {"sample": None},
        {"sample": (16, 32, 3)},
    ],
)
def test_what_the_run_is_made_of_is_a_condition(change):
    def found(**change):
        changes = [f"train.{item}" for item in sampled(5)]
        return graphs.conditions(trainer(*changes, **{"sample": (16, 16, 3), **change}))

    assert found(**change) != found()
    json.dumps(found(**change))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"held_out": 0}, ["step"]),
        ({}, ["validation", "step", "validation"]),
        ({"step": 10}, ["step", "validation"]),
        (
            {"step": 10, "sample": (8, 8, 3), "changes": ["validation.every=20", *sampled(15)]},
            ["step", "sample", "validation"],
        ),
        (
            {"step": 10, "sample": (8, 8, 3), "changes": ["validation.every=15", *sampled(5)]},
            ["step", "validation", "sample"],
        ),  # both after step 15
        (
            {"step": 90, "sample": (8, 8, 3), "changes": ["validation.every=500", *sampled(95)]},
            ["step", "sample", "validation"],
        ),  # the validation of the end
        (
            {"step": 10, "sample": (8, 8, 3), "changes": ["validation.every=20", *sampled(3)]},
            ["step", "sample", "sample", "sample", "validation"],
        ),  # each sample has a decoder of its own to compile
    ],
)
def test_the_order_of_what_is_compiled(given, expected):
    changes = [f"train.{change}" for change in given.get("changes", [])]
    assert graphs.order(trainer(*changes, **{name: given[name] for name in given if name != "changes"})) == expected


def test_nothing_is_kept_where_the_order_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "compile_cache", lambda place, conditions, asked: place)
    assert graphs.kept_graphs(trainer("environment.mode=0"), tmp_path) == tmp_path
    assert graphs.kept_graphs(trainer("environment.mode=0", sizes=2), tmp_path) is None
    assert graphs.kept_graphs(trainer("environment.mode=1"), tmp_path) is None
    monkeypatch.setattr(graphs.parallel, "size", lambda: 2)
    assert graphs.kept_graphs(trainer("environment.mode=0"), tmp_path) is None


def test_a_first_step_that_compiles_is_announced():
    assert "the first step takes long" in graphs.what_takes_long(trainer("environment.mode=0"), False)
    assert graphs.what_takes_long(trainer("environment.mode=0"), True) is None
    assert graphs.what_takes_long(trainer("environment.mode=1"), False) is None


@pytest.mark.slow
def test_no_bit_depends_on_kept_graphs(arguments, start, tmp_path, read_metrics):
    def run(name, cache, *more):
        argv = arguments(
            tmp_path / name,
            "environment.mode=0",
            "train.validation.share=0.4",
            "train.max_steps=3",
            "train.validation.every=2",
            *more,
        )
        text, _ = start([*argv, f"--compile_cache={cache}"]).communicate()
        assert len(list((tmp_path / "graphs").glob("*"))) == (cache != "off"), text
        return (tmp_path / name / "weights" / "delta.safetensors").read_bytes(), read_metrics(tmp_path / name)

    without = run("without", "off")
    first, second = (run(name, tmp_path / "graphs") for name in ("first", "second"))
    assert without[0] == first[0] == second[0] != run("other", tmp_path / "graphs", "train.seed=1")[0]
    assert all(line["grad_norm"] > 0 for line in first[1] if line["kind"] == "train")
    assert [line["loss"] for line in without[1]] == [line["loss"] for line in second[1]]


@pytest.mark.slow
def test_a_step_without_an_update_leaves_no_graph_in_the_place_of_another(arguments, start, tmp_path, checkpoint):
    tensors = load_file(checkpoint)
    tensors["model.diffusion_model.out.2.bias"][0] = np.nan
    save_file(tensors, tmp_path / "nan.safetensors")

    def run(name, cache, pretrained=checkpoint):
        argv = arguments(tmp_path / name, "environment.mode=0", f"train.pretrained={pretrained}")
        return start([*argv, f"--compile_cache={tmp_path / cache}"]).communicate()[0]

    def weights(name, cache):
        text = run(name, cache)
        path = tmp_path / name / "weights" / "delta.safetensors"
        assert path.exists(), text
        return path.read_bytes()

    expected = weights("alone", "other")
    # Graphs of a run that updates come after those of one that never does, and before.
    for name in ("before", "after"):
        assert "none of the 2 steps changed the weights" in run(f"{name} nan", "graphs", tmp_path / "nan.safetensors")
        assert weights(name, "graphs") == expected
    assert len(list((tmp_path / "graphs").glob("*"))) == 1
