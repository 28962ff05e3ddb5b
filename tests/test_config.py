"""Config files: what is read, what is refused, and what the refusal says."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import List, Literal, Optional, Tuple, Union  # noqa: UP035

import pytest

from gm.config import Section, build, check, check_call, load_config
from gm.errors import UserError

BASE = """
model:
  num_frames: 14
  unet: {channel_mult: [1, 2], frames: "${model.num_frames}", rate: 1e-4}
"""


class Unet:
    def __init__(self, channels: int, channel_mult: tuple[int, ...] = (1,), rate: float = 1.0, name: str | None = None):
        self.channels, self.channel_mult, self.rate, self.name = channels, channel_mult, rate, name


def legacy(a, b, c, d, e="x"):
    return a, b, c, d, e


# Annotations as objects, not text: what a module without `from __future__ import annotations` has.
legacy.__annotations__ = {
    "a": Optional[int],  # noqa: UP045
    "b": Union[int, str],  # noqa: UP007
    "c": Tuple[int, int],  # noqa: UP006
    "d": List[float],  # noqa: UP006
    "e": Literal["x", "y"],
}


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="a.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write_file


def refusal(call, *args, **kwargs):
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    return str(error.value)


def test_reads_numbers_and_resolves_interpolations(write):
    config = load_config(write(BASE))
    assert config == {"model": {"num_frames": 14, "unet": {"channel_mult": [1, 2], "frames": 14, "rate": 1e-4}}}
    assert isinstance(config.model.unet.rate, float)


def test_overrides_come_before_interpolation_and_the_last_one_wins(write):
    config = load_config(write(BASE), ["model.num_frames=3", "model.unet.channel_mult=[1,4]", "model.num_frames=25"])
    assert (config.model.unet.frames, config.model.unet.channel_mult) == (25, [1, 4])


def test_loaded_config_holds_values_and_takes_no_new_keys(write):
    config = load_config(write(BASE))
    config.model.num_frames = 3
    assert config.model.unet.frames == 14, "resolved when read: a later change does not travel"
    with pytest.raises(AttributeError):
        config.model.num_frame = 25


def test_derived_file_lies_over_its_chain_of_bases(write, tmp_path):
    write(BASE)
    write("base: a.yaml\nmodel: {num_frames: 25}", "b.yaml")
    (tmp_path / "sub").mkdir()
    config = load_config(write("base: ../b.yaml\nmodel: {unet: {rate: 2.0}}", "sub/c.yaml"))
    assert config == {"model": {"num_frames": 25, "unet": {"channel_mult": [1, 2], "frames": 25, "rate": 2.0}}}


def test_unknown_keys_are_all_named_with_path_and_near_miss(write):
    base = write(BASE)
    message = refusal(load_config, base, ["model.unet.chanel_mult=[1]"])
    assert "'model.unet.chanel_mult=[1]'" in message and str(base) in message
    assert "model.unet.chanel_mult: no such key (did you mean 'channel_mult'?)" in message
    derived = write("base: a.yaml\nmodle: {}\nmodel: {unet: {zzz: 1}}", "b.yaml")
    message = refusal(load_config, derived)
    assert "modle: no such key (did you mean 'model'?)" in message and "model.unet.zzz: no such key" in message
    assert str(derived) in message


@pytest.mark.parametrize("text", ["runs #2/x", "a: b", "[x].csv", "@x", "%d", "{x}", "5 %", "x", "ü ~"])
@pytest.mark.parametrize("key", ["text", "nothing", "required"])
def test_text_is_taken_as_it_stands(write, key, text):
    path = write("text: old\nnothing: null" + ("\nrequired: ???" if key == "required" else ""))
    assert load_config(path, [f"{key}={text}"])[key] == text


def test_text_can_be_a_number_or_become_nothing(write):
    path = write("text: old\nnothing: null\nnumber: 3")
    config = load_config(path, ["text=5", "nothing=1e-4", "number=4 # four"])
    assert config == {"text": "5", "nothing": 1e-4, "number": 4}
    assert load_config(path, ["text=null"]).text is None


@pytest.mark.parametrize("override", ["model", "=3", "model.unet=3", "model.num_frames.x=3", "model.num_frames=[1,"])
def test_unusable_override_is_refused_by_its_text(write, override):
    assert repr(override) in refusal(load_config, write(BASE), [override])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a: 1\nb: }\nc: 2\n", "line 2"),
        ("a: 1\na: 2\n", "line 2: found duplicate key a"),
        ("- 1", "key: value"),
        ("hello", "key: value"),
        ("", "key: value"),
        ("a: ???", "no value for a"),
        ("a: ${b.c}", "Interpolation key 'b.c' not found"),
        ("a: ${b}\nb: ${a}", "a.yaml"),
        ("a: ${", "a.yaml: a"),
        ("a: !!python/object:os.system 1", "line 1"),
        ("base: 3\na: 1", "expected the name of a file"),
        ("base: none.yaml\na: 1", "none.yaml: No such file"),
        ("base: a.yaml", "comes back to itself"),
        ("a: !!int abc", "not what its tag says, or too large: invalid literal for int() with base 10: 'abc'"),
        ("a: !!bool perhaps", "not what its tag says"),
        ("a: !!timestamp x", "not what its tag says"),
        ("a: " + "9" * 5000, "too large: "),
        ("a: " + "9" * 30, "too large for a whole number"),
        ("a: [{b: 0x" + "f" * 400 + "}]", "characters) is too large for a whole number"),
        ("a: &x [*x]", "contain themselves"),
        ("a: &x {b: *x}", "contain themselves"),
        ("a: " + "[" * 200 + "]" * 200, "nested too deeply"),
        ("a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
            f"{after}: &{after} [{', '.join(['*' + name] * 10)}]\n" for name, after in zip("abcdefghi", "bcdefghij")
        ), "more than 100,000 values"),
    ],
)
def test_broken_files_are_refused_by_name(write, text, expected):
    message = refusal(load_config, write(text))
    assert expected in message and ("a.yaml" in message or "none.yaml" in message)


@pytest.mark.parametrize("override, expected", [
    ("model.num_frames=!!int abc", "invalid literal"), ("model.num_frames=!!timestamp x", "model.num_frames"),
    ("model.num_frames=" + "9" * 5000, "(5017 characters)"), ("model.num_frames=" + "9" * 30, "too large"),
    ("model.num_frames=&x [*x]", "recursi"), ("nothing=" + "9" * 30, "too large"),
])
def test_overrides_of_the_wrong_kind_are_one_line(write, override, expected):
    message = refusal(load_config, write(BASE + "nothing: null"), [override])
    assert expected in message and "\n" not in message and len(message) < 300


@pytest.mark.parametrize("key, expected", [
    ("lr", "'model.rate.learning_rate'"), ("model.lr", "'model.rate.learning_rate'"),
    ("model.learning_rate", "'model.rate.learning_rate'"), ("num_frames", "'model.num_frames'"),
    ("batch", "'a.batch' or 'b.batch'"), ("model.rat", "'rate'"), ("learning_rat", "'model.rate.learning_rate'"),
])
def test_an_option_of_another_section_is_found(write, key, expected):
    path = write("model: {num_frames: 1, rate: {learning_rate: 2}}\na: {batch: 1}\nb: {batch: 1}")
    assert f"{key}: no such key (did you mean {expected}?)" in refusal(load_config, path, [f"{key}=3"])


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder"), ("/dev/zero", "a device")):
        assert refusal(load_config, path) == f"the config {path} is {kind}, not a file: name the file itself"


def test_missing_binary_and_too_long_a_chain(tmp_path, write):
    assert "No such file" in refusal(load_config, tmp_path / "no.yaml")
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(load_config, tmp_path / "bin.yaml")
    for number in range(6):
        write(f"base: {number + 1}.yaml\na: 1", f"{number}.yaml")
    write("a: 1", "6.yaml")
    assert load_config(tmp_path / "2.yaml") == {"a": 1}
    assert "more than 4" in refusal(load_config, tmp_path / "0.yaml")


def test_check_call_finds_every_fault():
    faults = check_call(Unet, {"chanel_mult": [1], "rate": "fast", "name": 3, "dtype": 1}, "model.unet", ["dtype"])
    assert faults == [
        "model.unet: no argument 'chanel_mult' (did you mean 'channel_mult'?)",
        "model.unet.rate: expected float, found 'fast'",
        "model.unet.name: expected str | None, found 3",
        "model.unet: argument 'dtype' is set by the program, remove it",
        "model.unet: argument 'channels' is missing",
    ]
    assert check_call(Unet, {"channels": 3, "channel_mult": [1, 2], "rate": 1, "name": None}, "unet") == []
    assert check_call(Unet, 3, "unet") == ["unet: expected a section, found 3"]


@pytest.mark.parametrize(
    "name, value, right",
    [
        ("channels", 3, True),
        ("channels", True, False),
        ("channels", 3.0, False),
        ("channels", None, False),
        ("channel_mult", [1, "2"], False),
        ("channel_mult", [1, True], False),
        ("channel_mult", 3, False),
        ("channel_mult", [], True),
        ("rate", 1, True),
        ("rate", False, False),
        ("name", "x", True),
    ],
)
def test_plain_types(name, value, right):
    assert (check_call(Unet, {"channels": 1, name: value}, "unet") == []) is right


@pytest.mark.parametrize(
    "name, value, right",
    [
        ("a", None, True),
        ("a", 1.5, False),
        ("b", "s", True),
        ("b", None, False),
        ("c", [1, 2], True),
        ("c", [1, 2, 3], False),
        ("d", [1, 2.5], True),
        ("d", ["1"], False),
        ("e", "y", True),
        ("e", "z", False),
    ],
)
def test_annotations_given_as_objects(name, value, right):
    section = {"a": 1, "b": 1, "c": [1, 2], "d": [1], name: value}
    assert (check_call(legacy, section, "call") == []) is right


def test_free_keyword_arguments_and_unknown_types_take_anything():
    def free(decoder: Unet, size: Optional[Unet] = None, **rest):  # noqa: UP045
        return decoder

    assert check_call(free, {"decoder": {"x": 1}, "size": 3, "other": 4}, "free") == []


def test_check_tells_all_faults_of_all_sections_and_names_the_file(write):
    path = write("model: {num_frames: 1.5, unet: {channels: x}, vea: {}}")
    schema = {"model": {"num_frames": "int", "unet": Section(Unet), "vae": Section(Unet)}}
    message = refusal(check, load_config(path), schema, path)
    assert message.startswith(str(path))
    for fault in (
        "model.vea: no such key (did you mean 'vae'?)",
        "model.num_frames: expected int, found 1.5",
        "model.unet.channels: expected int, found 'x'",
        "model.vae: missing",
    ):
        assert fault in message, fault


def test_check_passes_what_fits(write):
    path = write("model: {num_frames: 1, unet: {channels: 2, rate: 2}}")
    check(load_config(path), {"model": {"num_frames": "int", "unet": Section(Unet)}}, path)


def test_a_target_without_a_signature_is_a_fault():
    assert check_call(UserError, {}, "x") == ["x: UserError is not made to be built from a config"]


def test_build_gives_tuples_and_extra_arguments(write):
    config = load_config(write("unet: {channel_mult: [1, [2, 3]], rate: 2}"))
    with pytest.raises(UserError, match=r"unet.channel_mult: expected tuple\[int, ...\]"):
        build(Unet, config.unet, "unet", channels=5)
    config.unet.channel_mult = [1, 2]
    unet = build(Unet, config.unet, "unet", channels=5)
    assert (unet.channels, unet.channel_mult, unet.rate) == (5, (1, 2), 2)


def test_reading_a_config_does_not_load_mindspore():
    code = "import sys, gm.config; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
