"""Config files: what is read, what is refused, and what the refusal says."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gm.config import load, read_values, to_yaml
from gm.errors import UserError
from gm.settings import Settings, defaults, option, options_of, plain, raise_if

BASE = """
model:
  num_frames: 14
  unet: {channel_mult: [1, 2], frames: "${model.num_frames}", rate: 1e-4}
"""


@dataclass(frozen=True)
class Unet(Settings):
    channels: int = option("of the first level", least=1)
    channel_mult: tuple[int, ...] = option("of each level", (1,), least=1, most=64)
    rate: float = option("of learning", 1.0, above=0)
    name: str | None = option("of the file", None)
    grid: tuple[tuple[int, ...], ...] | None = None
    flag: bool = option("on or off", False)
    kind: str = option("of net", "small", choices=("small", "large"))
    folder: str | Path = "."

    def contradictions(self):
        if self.flag and self.name is None:
            yield "name: is needed with flag"


@dataclass(frozen=True)
class Model(Settings):
    unet: Unet
    other: Unet = Unet(channels=2)
    num_frames: int = option("of a video", 14, least=1, most=1000)
    more: Any = None


@dataclass(frozen=True)
class Whole(Settings):
    model: Model


def load_config(path, overrides=()):
    faults = []
    values = read_values(path, overrides, faults)
    raise_if(faults, f"{path}:")
    return values


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
    assert isinstance(config["model"]["unet"]["rate"], float)


def test_overrides_come_before_interpolation_and_the_last_one_wins(write):
    config = load_config(write(BASE), ["model.num_frames=3", "model.unet.channel_mult=[1,4]", "model.num_frames=25"])
    assert config["model"]["unet"] == {"channel_mult": [1, 4], "frames": 25, "rate": 1e-4}


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
    assert load_config(path, ["text=null"])["text"] is None
    config = load_config(path, ["text=010", "nothing=007", "number=0"])
    assert config == {"text": "010", "nothing": 7, "number": 0}


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
        ("b: 1\na: [007, -010]", "line 2: -010: YAML reads -8; write it without 0 in front"),
        ("a: 1:30", "line 1: 1:30: YAML reads 90"),
        ("a: &x [*x]", "contain themselves"),
        ("a: &x {b: *x}", "contain themselves"),
        ("a: " + "[" * 200 + "]" * 200, "nested too deeply"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{after}: &{after} [{', '.join(['*' + name] * 10)}]\n" for name, after in zip("abcdefghi", "bcdefghij")
            ),
            "more than 100,000 values",
        ),
    ],
)
def test_broken_files_are_refused_by_name(write, text, expected):
    message = refusal(load_config, write(text))
    assert expected in message and ("a.yaml" in message or "none.yaml" in message)


@pytest.mark.parametrize(
    "override, expected",
    [
        ("model.num_frames=!!int abc", "invalid literal"),
        ("model.num_frames=!!timestamp x", "model.num_frames"),
        ("model.num_frames=" + "9" * 5000, "(5017 characters)"),
        ("model.num_frames=" + "9" * 30, "too large"),
        ("model.num_frames=&x [*x]", "recursi"),
        ("nothing=" + "9" * 30, "too large"),
        ("nothing=", "nothing is behind the equals sign; write null"),
        ("model.num_frames= ", "nothing is behind the equals sign; write null"),
        ("model.num_frames=010", "YAML reads 8; write it without 0 in front"),
        ("nothing=1:30", "YAML reads 90; write it without 0 in front and without colons"),
    ],
)
def test_overrides_of_the_wrong_kind_are_one_line(write, override, expected):
    message = refusal(load_config, write(BASE + "nothing: null"), [override])
    assert expected in message and "\n" not in message and len(message) < 300


@pytest.mark.parametrize(
    "key, expected",
    [
        ("lr", "'model.rate.learning_rate'"),
        ("model.lr", "'model.rate.learning_rate'"),
        ("model.learning_rate", "'model.rate.learning_rate'"),
        ("num_frames", "'model.num_frames'"),
        ("batch", "'a.batch' or 'b.batch'"),
        ("model.rat", "'rate'"),
        ("learning_rat", "'model.rate.learning_rate'"),
    ],
)
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


def whole(write, text, *overrides):
    return load(Whole, write(text), overrides)


def test_a_file_becomes_typed_settings_over_the_defaults(write):
    found = whole(write, "model: {unet: {channels: 3, channel_mult: [1, 2], rate: 2, grid: [[1, 2]]}, num_frames: 5}")
    assert found == Whole(Model(Unet(3, (1, 2), 2, None, ((1, 2),)), num_frames=5))
    assert found.model.other.channels == 2 and isinstance(found.model.unet, Unet)
    assert found == whole(write, to_yaml(found)) and hash(found)
    assert plain(found)["model"]["unet"]["grid"] == [[1, 2]]
    with pytest.raises(FrozenInstanceError):
        found.model.num_frames = 3


def test_every_fault_is_told_at_once_with_its_path(write):
    message = refusal(
        whole,
        write,
        "model: {num_frames: 1.5, vea: {}, unet: {chanel_mult: [1], rate: fast, name: 3, "
        "flag: 1, kind: huge}, other: {channels: 0, channel_mult: [1, 99], rate: 0, flag: true}}",
        "model.other.rat=3",
        "lr=1",
    )
    path, *faults = message.split("\n  ")
    assert path.endswith("a.yaml with the options given is invalid:") and faults == [
        "model.vea: no such key",
        "model.unet.chanel_mult: no such key (did you mean 'channel_mult'?)",
        "override 'model.other.rat=3': model.other.rat: no such key (did you mean 'rate'?)",
        "override 'lr=1': lr: no such key",
        "model.unet.channels: has no value: of the first level",
        "model.unet.rate: expected float, found 'fast'",
        "model.unet.name: expected str | None, found 3",
        "model.unet.flag: expected bool, found 1",
        "model.unet.kind 'huge': must be one of small, large",
        "model.other.channels 0: must be at least 1",
        "model.other.channel_mult [1, 99]: each must be 64 or less",
        "model.other.rate 0: must be more than 0",
        "model.other.name: is needed with flag",
        "model.num_frames: expected int, found 1.5",
    ]


def test_a_file_that_only_lacks_values_is_not_called_invalid(write):
    message = refusal(whole, write, "model: {num_frames: 2}", "model.num_frames=3")
    first, *faults = message.splitlines()
    assert first.endswith("a.yaml with the options given leaves out what must be given:")
    assert faults == ["  model.unet.channels: has no value: of the first level"]


def test_a_derived_file_is_named_with_its_own_faults(write):
    write("model: {unet: {channels: 3, zzz: 1}}")
    message = refusal(load, Whole, write("base: a.yaml\nmodel: {frames: 3, unet: {grid: [[1]]}}", "b.yaml"))
    folder = write("", "c.yaml").parent
    assert message.splitlines() == [
        f"{folder / 'b.yaml'} is invalid:",
        f"  {folder / 'a.yaml'}: model.unet.zzz: no such key",
        "  model.frames: no such key (did you mean 'num_frames'?)",
    ]


@pytest.mark.parametrize(
    "name, value, right",
    [
        ("channels", 3, True),
        ("channels", True, False),
        ("channels", 3.0, False),
        ("channels", None, False),
        ("channels", np.int64(3), True),
        ("channels", 2**63, False),
        ("channel_mult", [1, "2"], False),
        ("channel_mult", [1, True], False),
        ("channel_mult", 3, False),
        ("channel_mult", [], True),
        ("rate", 1, True),
        ("rate", False, False),
        ("rate", np.float32(0.5), True),
        ("rate", float("nan"), False),
        ("rate", float("inf"), False),
        ("rate", 10**400, False),
        ("name", "x", True),
        ("name", "", False),
        ("name", None, True),
        ("grid", [[1, 2], []], True),
        ("grid", [1], False),
        ("grid", None, True),
        ("flag", 0, False),
        ("folder", Path("x"), True),
        ("folder", "x", True),
        ("folder", None, False),
        ("kind", None, False),
    ],
)
def test_types_and_limits_hold_for_files_and_for_python(name, value, right):
    def tried(call):
        try:
            return bool(call())
        except UserError as error:
            assert name in str(error)
            return False

    assert tried(lambda: replace(Unet(3), **{name: value}) and hash(replace(Unet(3), **{name: value}))) is right
    assert tried(lambda: Model(Unet(3), more={"of": [value]})), "what is of any type is left alone"


def test_defaults_and_options_are_read_from_the_fields():
    model = defaults(Whole)["model"]
    assert (model["unet"]["channels"], model["other"]["channels"], model["unet"]["channel_mult"]) == ("???", 2, [1])
    assert [path for path, _ in options_of(Whole)][:2] == ["model.unet.channels", "model.unet.channel_mult"]


def test_a_section_is_a_section(write):
    assert "model.unet: expected a section, found None" in refusal(whole, write, "model: {unet: null}")
    assert "model: is a section, cannot become a single value" in refusal(whole, write, "model: 3")


def test_reading_a_config_does_not_load_mindspore():
    code = "import sys, gm.config; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
