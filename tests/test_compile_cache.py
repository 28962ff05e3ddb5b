"""The folder of a compile cache: which runs share one, when it appears, and that frames do not depend on it."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from gm import compile_cache, graphs
from gm.cli.arguments import check_arguments, make_job
from gm.errors import UserError
from gm.inference_options import make_parser
from gm.ops import reference
from tests.untrained import CONFIG

ROOT = CONFIG.parent.parent


@pytest.fixture(autouse=True)
def _unused(monkeypatch):
    monkeypatch.setattr(compile_cache, "_used", [])


def use(folder, conditions, fail=None):
    """One run: True if graphs were found. It writes a file where MindSpore would."""
    compile_cache._used.clear()
    with compile_cache.compile_cache(folder, lambda: conditions) as found:
        assert os.environ["MS_COMPILER_CACHE_ENABLE"] == "1"
        (Path(os.environ["MS_COMPILER_CACHE_PATH"]) / "graph").write_text("x")
        if fail:
            raise fail
    return found


def test_a_run_that_ends_well_leaves_its_graphs_to_runs_under_the_same_conditions(tmp_path):
    assert not use(tmp_path, {"frames": 3})
    assert use(tmp_path, {"frames": 3})
    assert not use(tmp_path, {"frames": 4})
    assert len(list(tmp_path.iterdir())) == 2
    assert "MS_COMPILER_CACHE_ENABLE" not in os.environ and "MS_COMPILER_CACHE_PATH" not in os.environ


@pytest.mark.parametrize("fail", [KeyboardInterrupt(), UserError("a picture failed")])
def test_a_run_that_ends_badly_leaves_nothing(tmp_path, fail):
    with pytest.raises(type(fail)):
        use(tmp_path, {}, fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"y", None])
def test_graphs_that_were_damaged_or_changed_are_made_anew(tmp_path, damage, capsys):
    use(tmp_path, {})
    (graph,) = tmp_path.glob("*/graph")
    graph.unlink() if damage is None else graph.write_bytes(damage)
    assert not use(tmp_path, {})
    assert "damaged or was changed" in capsys.readouterr().err
    assert use(tmp_path, {}) and graph.read_text() == "x"


def test_graphs_that_a_later_run_adds_are_kept_too(tmp_path, capsys):
    use(tmp_path, {})
    compile_cache._used.clear()
    with compile_cache.compile_cache(tmp_path, dict) as found:
        (Path(os.environ["MS_COMPILER_CACHE_PATH"]) / "more").write_text("y")
    assert found and use(tmp_path, {}) and not capsys.readouterr().err
    assert [p.read_text() for p in tmp_path.glob("*/more")] == ["y"]


def test_graphs_are_kept_where_nobody_else_can_write(tmp_path, capsys):
    assert not use(tmp_path / "new", {})
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    for mode in (0o777, 0o775):
        (tmp_path / "new").chmod(mode)
        compile_cache._used.clear()
        with compile_cache.compile_cache(tmp_path / "new", dict) as found:
            assert not found and "MS_COMPILER_CACHE_PATH" not in os.environ
        assert "others can write to" in capsys.readouterr().err
    (tmp_path / "new").chmod(0o700)
    assert use(tmp_path / "new", {})


@pytest.mark.parametrize("planted", [b"/tmp/evil.so:LayerNorm", b"./x:Silu", b"/home/me/kernels.so.x:Silu"])
def test_no_library_is_loaded_that_a_graph_names(tmp_path, monkeypatch, planted):
    own = "/home/me/kernels.so"
    monkeypatch.setattr("gm.ops.native.library", lambda: own)
    graph = b"\x03aot\x80\n\tfunc_name*" + bytes([len(own) + 5]) + own.encode() + b":Silu\x80\x01\x08"
    long = b"func_name*\xa5\x01" + own.encode() + b":Silu Custom__" + own.encode() + b":Silu"
    (tmp_path / "a.mindir").write_bytes(graph + long)
    assert not compile_cache._foreign_libraries(tmp_path)
    (tmp_path / "b.mindir").write_bytes(graph + b"func_name*" + bytes([len(planted)]) + planted)
    assert compile_cache._foreign_libraries(tmp_path)


def test_mindspores_own_switch_is_turned_off(monkeypatch, capsys):
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    compile_cache.ignore_environment()
    assert "MS_COMPILER_CACHE_ENABLE" not in os.environ and "--compile_cache is safe" in capsys.readouterr().err
    compile_cache.ignore_environment()
    assert capsys.readouterr().err == ""


def test_the_slower_of_two_runs_leaves_the_others_graphs(tmp_path):
    with compile_cache.compile_cache(tmp_path, dict):
        (Path(os.environ["MS_COMPILER_CACHE_PATH"]) / "graph").write_text("slow")
        use(tmp_path, {})
    assert [p.read_text() for p in tmp_path.glob("*/graph")] == ["x"]
    assert len(list(tmp_path.iterdir())) == 1


def test_no_cache_and_two_caches(tmp_path):
    with compile_cache.compile_cache(None, None) as found:
        assert not found and "MS_COMPILER_CACHE_ENABLE" not in os.environ
    with compile_cache.compile_cache(tmp_path, dict):
        pass
    with pytest.raises(RuntimeError, match="one compile cache"), compile_cache.compile_cache(tmp_path, dict):
        pass


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="compile_cache .*file"):
        use(tmp_path / "file", {})


def test_key_is_of_conditions_sources_and_mindspores_environment(tmp_path, monkeypatch):
    (tmp_path / "gm" / "ops").mkdir(parents=True)
    source = tmp_path / "gm" / "ops" / "a.py"
    source.write_text("1")
    keys = [compile_cache.key(conditions, tmp_path) for conditions in ({"a": 1}, {"a": 2})]
    assert keys[0] == compile_cache.key({"a": 1}, tmp_path)
    source.write_text("2")
    keys.append(compile_cache.key({"a": 1}, tmp_path))
    source.rename(source.with_name("b.py"))
    keys.append(compile_cache.key({"a": 1}, tmp_path))
    for variable in ("MS_DEV_SOMETHING", "SVD_FORMS"):
        monkeypatch.setenv(variable, "1")
        keys.append(compile_cache.key({"a": 1}, tmp_path))
    assert len(set(keys)) == len(keys)


def conditions(tmp_path, checkpoint, *extra):
    """What a command's graphs depend on, as the key sees it."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (128, 64)).save(picture)
    arguments = make_parser("").parse_args(
        [
            f"--SVD.config={CONFIG}",
            f"--SVD.checkpoint={checkpoint}",
            f"--image={picture}",
            f"--output_dir={tmp_path}",
            "--device_target=CPU",
            *extra,
        ]
    )
    check_arguments(arguments)
    return json.dumps(graphs.conditions(make_job(arguments), [picture]), default=str, sort_keys=True)


def test_conditions_are_all_that_changes_graphs_and_nothing_that_does_not(tmp_path, untrained, monkeypatch):
    monkeypatch.setattr(reference, "MAX_SCORES", reference.MAX_SCORES)
    usual = conditions(tmp_path, untrained)
    same = ("--seed=3", "--SVD.fps=9", "--SVD.motion_bucket_id=3", "--num_videos=2", "--output_type=gif")
    assert conditions(tmp_path, untrained, *same) == usual
    changes = (
        "--SVD.num_frames=2",
        "--SVD.decode_chunk_size=1",
        "--height=128",
        "--amp_level=O2",
        "--low_memory",
        "--memory_budget=100MB",
        "--SVD.cache_interval=2",
        "--SVD.guidance_sigma_max=9",
        "--output_type=latents",
        "--SVD.max_guidance=1",
        "--SVD.sampler=heun",
        "--SVD.decode_tile=64",
        "--SVD.encode_tile=64",
        "--loop",
        f"--end_image={tmp_path / 'picture.png'}",
        "--segments=2",
        "--batch=2",
    )
    found = [conditions(tmp_path, untrained, change) for change in changes]
    assert len({usual, *found}) == len(changes) + 1
    assert conditions(tmp_path, untrained, "--guidance_devices=2", "--dry_run") != usual
    # Batches of 2, of 2 and 1, and of 1 and nothing else, which are three sets of graphs; 4 are batches of 2 again.
    pairs = [conditions(tmp_path, untrained, "--batch=2", f"--num_videos={count}") for count in (2, 3, 1, 4)]
    assert len(set(pairs[:3])) == 3 and pairs[3] == pairs[0]
    half = tmp_path / "half.safetensors"
    save_file({name: array.astype(np.float16) for name, array in load_file(untrained).items()}, half)
    assert conditions(tmp_path, half) == usual
    assert conditions(tmp_path, half, "--low_memory") != conditions(tmp_path, untrained, "--low_memory")


def program(tmp_path, checkpoint, out, *extra):
    """Runs image_to_video.py in graph mode; a hash of the frames."""
    command = [
        sys.executable,
        str(ROOT / "image_to_video.py"),
        f"--SVD.config={CONFIG}",
        f"--SVD.checkpoint={checkpoint}",
        f"--image={tmp_path / 'pictures'}",
        f"--output_dir={out}",
        "--SVD.num_frames=3",
        "--SVD.sampling_steps=1",
        "--SVD.decode_chunk_size=2",
        "--output_type=frames",
        "--device_target=CPU",
        *extra,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pictures = sorted(out.glob("*_frames/*.png"))
    assert len(pictures) == (18 if "--num_videos=3" in extra else 6)
    return hashlib.sha256(b"".join(p.read_bytes() for p in pictures)).hexdigest(), done.stderr


def test_without_being_asked_graphs_are_kept_on_cpus_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SVD_COMPILE_CACHE")
    usual = tmp_path / "svd_mindspore" / "graphs"
    assert compile_cache.chosen(None, "CPU", 0) == (usual, False)
    assert compile_cache.chosen(None, "Ascend", 0) == compile_cache.chosen("off", "CPU", 0) == (None, False)
    assert compile_cache.chosen("there", "GPU", 0) == (Path("there"), True)
    assert compile_cache.chosen(None, "CPU", 1) == (None, False)  # PyNative
    monkeypatch.setenv("SVD_COMPILE_CACHE", "elsewhere")
    assert compile_cache.chosen(None, "CPU", 0) == (Path("elsewhere"), True)
    assert compile_cache.chosen("off", "CPU", 0) == (None, False)


def test_a_home_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    (tmp_path / "file").touch()
    with compile_cache.compile_cache(tmp_path / "file" / "graphs", dict, asked=False) as found:
        assert not found and "MS_COMPILER_CACHE_PATH" not in os.environ
    assert "are not kept for the next run" in capsys.readouterr().err


def test_the_oldest_go_first_but_not_what_may_be_in_use(tmp_path, monkeypatch, capsys):
    for name, age in (("new", 0), ("old", 7200), ("older", 9000), ("oldest", 9900)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "graph").write_bytes(bytes(1000))
        (tmp_path / name / "checksums.json").touch()
        os.utime(tmp_path / name / "checksums.json", (time.time() - age,) * 2)
    monkeypatch.setattr(compile_cache, "_LIMIT", 2500)
    compile_cache._give_up_oldest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
    monkeypatch.setattr(compile_cache, "_LIMIT", 0)
    compile_cache._give_up_oldest(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    compile_cache.main([f"--folder={tmp_path}"])
    assert "1 sets of graphs" in capsys.readouterr().out and (tmp_path / "new").exists()
    compile_cache.main([f"--folder={tmp_path}", "--clear"])
    assert not list(tmp_path.iterdir())


def test_a_run_that_finds_its_graphs_is_a_use_of_them(tmp_path):
    use(tmp_path, {})
    (sums,) = tmp_path.glob("*/checksums.json")
    os.utime(sums, (5, 5))
    assert use(tmp_path, {}) and sums.stat().st_mtime > 5


def test_a_second_run_in_a_process_goes_without_what_nobody_asked_for(tmp_path):
    use(tmp_path, {})
    with compile_cache.compile_cache(tmp_path, dict, asked=False) as found:
        assert not found and "MS_COMPILER_CACHE_PATH" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--batch=2", "--num_videos=3")], ids=["one by one", "batches"])
def test_frames_of_two_sizes_are_the_same_with_and_without(tmp_path, untrained, more):
    (tmp_path / "pictures").mkdir()
    for name, size in (("a", (64, 64)), ("b", (128, 64))):
        Image.linear_gradient("L").resize(size).convert("RGB").save(tmp_path / "pictures" / f"{name}.png")
    option = f"--compile_cache={tmp_path / 'cache'}"
    plain, _ = program(tmp_path, untrained, tmp_path / "plain", *more)
    first, told = program(tmp_path, untrained, tmp_path / "first", option, *more)
    second, told_again = program(tmp_path, untrained, tmp_path / "second", option, *more)
    assert plain == first == second
    assert "compiling" in told and "compiling" not in told_again and "WARNING" not in told + told_again
