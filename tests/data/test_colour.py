"""Colours of picture files. The right values are computed here from published chromaticities and curves (IEC 61966-2-1,
Adobe RGB (1998), SMPTE EG 432-1, ITU-R BT.2020, CIE 15), never by the library that converts; so are the profiles."""

from __future__ import annotations

import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gm.data import rgb
from gm.data.images import load_image

D50 = (0.9642, 1.0, 0.8249)
# Colorants as the profiles themselves state them: Apple's "Display P3" and Adobe's "Adobe RGB (1998)".
P3_D50 = [(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)]
ADOBE_D50 = [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]
SRGB_XY, P3_XY = [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)], [(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)]
ADOBE_XY, BT2020_XY = [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], [(0.708, 0.292), (0.170, 0.797), (0.131, 0.046)]


def scene(height=48, width=64):
    """uint8 (h, w, 3) in sRGB: all hues, dark to light."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * y / (height - 1), 255 * x / (width - 1)
    return np.rint(np.stack([red, green, 127.5 + 127.5 * np.sin(x / 9 + y / 5)], axis=-1)).astype(np.uint8)


def decode_srgb(value):
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def encode_srgb(light):
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def to_xyz(primaries, white=(0.3127, 0.3290)):
    """(3, 3): linear RGB → XYZ."""
    column = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return column * np.linalg.solve(column, [white[0] / white[1], 1, (1 - sum(white)) / white[1]])


def stored(pixels, primaries, curve):
    """The sRGB colours of `pixels` in another RGB space with D65 white; curve: light → value."""
    light = decode_srgb(pixels / 255.0) @ to_xyz(SRGB_XY).T @ np.linalg.inv(to_xyz(primaries)).T
    return np.rint(255 * curve(np.clip(light, 0, 1))).astype(np.uint8)


def shown(pixels, primaries, curve):
    """float: the sRGB colours of stored `pixels`; curve: value → light."""
    return 255 * encode_srgb(curve(pixels / 255.0) @ to_xyz(primaries).T @ np.linalg.inv(to_xyz(SRGB_XY)).T)


def in_p3():
    """The scene as Display P3 stores it, and what that is in sRGB. Eight bits cost the darkest colours up to 8."""
    pixels = stored(scene(), P3_XY, encode_srgb)
    right = shown(pixels, P3_XY, decode_srgb)
    assert off(pixels, scene()) > 44 and np.abs(right - scene()).mean() < 0.5 and off(right, scene()) <= 9
    return pixels, right


def in_adobe_rgb():
    pixels = stored(scene(), ADOBE_XY, lambda light: light ** (256 / 563))
    right = shown(pixels, ADOBE_XY, lambda value: value ** (563 / 256))
    assert off(pixels, scene()) > 30 and np.abs(right - scene()).mean() < 0.5
    return pixels, right


def profile(space, tags, version=0x02100000):
    """Bytes of an ICC profile: ICC.1:2001-04, section 6."""
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    pcs = b"Lab " if space == b"CMYK" else b"XYZ "
    head = struct.pack(">I4xI4s4s4s12x4s28x", at + len(body), version, kind, space, pcs, b"acsp") + fixed(D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def fixed(numbers):
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def xyz(numbers):
    return b"XYZ \0\0\0\0" + fixed(numbers)


def gamma(exponent):
    return struct.pack(">4s4xIH", b"curv", 1, round(exponent * 256))


def srgb_table():
    values = np.rint(65535 * decode_srgb(np.linspace(0, 1, 1024))).astype(int).tolist()
    return struct.pack(">4s4xI1024H", b"curv", 1024, *values)


def rgb_profile(colorants, curve):
    tags = {b"wtpt": xyz(D50)}
    for letter, colorant in zip("rgb", colorants):
        tags[f"{letter}XYZ".encode()], tags[f"{letter}TRC".encode()] = xyz(colorant), curve
    return profile(b"RGB ", tags)


P3 = rgb_profile(P3_D50, srgb_table())
ADOBE = rgb_profile(ADOBE_D50, gamma(563 / 256))
GREY_18 = profile(b"GRAY", {b"wtpt": xyz(D50), b"kTRC": gamma(1.8)})


def off(loaded, right):
    return np.abs(loaded.astype(float) - right).max()


def png(path, pixels, *chunks, depth=8):
    """A PNG with the chunks (kind, body) before its pixels; of 8-bit RGB, or grey."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    colour = 2 if pixels.ndim == 3 else 0
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB"])
def test_wide_gamut_pictures_come_back_as_the_srgb_scene(tmp_path, suffix, name):
    (pixels, right), icc = (in_p3(), P3) if name == "Display P3" else (in_adobe_rgb(), ADOBE)
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    Image.fromarray(pixels).save(tmp_path / f"x.{suffix}", icc_profile=icc, **options)
    if suffix == "jpg":  # rounds YCbCr, and decoders differ
        right = shown(
            np.asarray(Image.open(tmp_path / "x.jpg")),
            P3_XY if icc is P3 else ADOBE_XY,
            decode_srgb if icc is P3 else lambda value: value ** (563 / 256),
        )
    assert off(load_image(tmp_path / f"x.{suffix}"), right) <= 2


def test_a_profile_that_is_srgb_changes_nothing(tmp_path):
    srgb_d50 = [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]
    pixels = scene()
    Image.fromarray(pixels).save(tmp_path / "x.png", icc_profile=rgb_profile(srgb_d50, srgb_table()))
    np.testing.assert_array_equal(load_image(tmp_path / "x.png"), pixels)


def test_the_profile_is_followed_after_turning_and_under_transparency(tmp_path):
    (pixels, right), exif = in_p3(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", icc_profile=P3, exif=exif)
    assert off(load_image(tmp_path / "turned.png"), np.rot90(right, -1)) <= 2
    alpha = np.full(scene().shape[:2], 128, np.uint8)
    alpha[:8], alpha[8:16] = 0, 255
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "clear.png", icc_profile=P3)
    weight = alpha[..., None] / 255
    assert off(load_image(tmp_path / "clear.png"), np.rint(right * weight + 255 * (1 - weight))) <= 2


def test_palette_and_grey_under_an_rgb_profile(tmp_path):
    Image.new("P", (4, 4), 1).save(tmp_path / "warm-up.png")
    colour = np.array([[[40, 200, 90]]], np.uint8)
    inside = stored(colour, P3_XY, encode_srgb)
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette(inside.ravel().tolist())
    picture.save(tmp_path / "p.png", icc_profile=P3)
    assert Image.open(tmp_path / "p.png").mode == "P" and off(load_image(tmp_path / "p.png"), colour) <= 2
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "l.png", icc_profile=ADOBE)
    right = np.rint(255 * encode_srgb((grey / 255.0) ** (563 / 256)))[..., None]
    assert off(load_image(tmp_path / "l.png"), right) <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles(tmp_path, mode):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(grey if mode != "I;16" else grey * np.uint16(257))
    picture = picture.convert("LA") if mode == "LA" else picture
    picture.save(tmp_path / "x.png", icc_profile=GREY_18)
    assert Image.open(tmp_path / "x.png").mode == mode
    right = np.rint(255 * encode_srgb((grey / 255.0) ** 1.8))[..., None]
    assert off(load_image(tmp_path / "x.png"), right) <= 1 and off(grey[..., None], right) > 10


def test_a_linear_grey_picture_keeps_its_dark_steps(tmp_path):
    """The 16 bits must not become 8 before the curve: 1/255 of linear light is 13/255 in sRGB."""
    wide = np.arange(0, 2048, 8, dtype=np.uint16).reshape(16, 16)
    linear = profile(b"GRAY", {b"wtpt": xyz(D50), b"kTRC": gamma(1.0)})
    Image.fromarray(wide).save(tmp_path / "x.png", icc_profile=linear)
    assert off(load_image(tmp_path / "x.png"), np.rint(255 * encode_srgb(wide / 65535.0))[..., None]) <= 2


def cmyk_table(lab):
    """A `mft2` tag (ICC.1:2001-04, 6.5.7) of two points for each ink; lab: function of the four inks' amounts."""
    nodes = [lab(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    # 16-bit Lab of version 2: L 0…100 as 0…65280, a and b from -128 in steps of 1/256
    values = [round(v) for L, a, b in nodes for v in (L * 652.8, (a + 128) * 256, (b + 128) * 256)]
    ends = [0, 65535]
    head = struct.pack(">4s4xBBBx", b"mft2", 4, 3, 2) + fixed([1, 0, 0, 0, 1, 0, 0, 0, 1]) + struct.pack(">HH", 2, 2)
    return (
        head + struct.pack(">8H", *ends * 4) + struct.pack(f">{len(values)}H", *values) + struct.pack(">6H", *ends * 3)
    )


def lab_to_srgb(lab):
    """float (..., 3) of CIE Lab under D50 → sRGB 0…255: CIE 15, Bradford to D65."""
    L, a, b = np.moveaxis(np.asarray(lab, float), -1, 0)
    f = np.stack([(L + 16) / 116 + a / 500, (L + 16) / 116, (L + 16) / 116 - b / 200], axis=-1)
    xyz_d50 = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d65 = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ d65) / (bradford @ D50)) @ bradford
    return 255 * encode_srgb(xyz_d50 @ adapt.T @ np.linalg.inv(to_xyz(SRGB_XY)).T)


def inks(c, m, y, k):
    """Lab of a made-up press: its black is a dark grey, as ink is, and two points make it linear in Lab."""
    return (90 - 30 * c - 25 * m - 5 * y) * (1 - k) + 12 * k, (-20 * c + 30 * m) * (1 - k), (-20 * c + 35 * y) * (1 - k)


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_cmyk_profiles_give_what_they_measured(tmp_path, suffix):
    """The colorimetric table, A2B1, without black point compensation; the perceptual one says something else."""
    tags = {b"wtpt": xyz(D50), b"A2B1": cmyk_table(inks)}
    tags[b"A2B0"] = cmyk_table(lambda *amounts: (50, 0, 0))
    amounts = np.array(
        [
            [0, 0, 0, 0],
            [255, 0, 0, 0],
            [0, 255, 0, 0],
            [0, 0, 255, 0],
            [255, 255, 0, 0],
            [0, 0, 0, 255],
            [255, 0, 255, 0],
            [102, 0, 0, 0],
            [0, 51, 0, 0],
            [0, 0, 0, 153],
        ],
        np.uint8,
    )
    pixels = np.repeat(np.repeat(amounts[None], 16, axis=0), 16, axis=1)  # blocks, which JPEG keeps
    options = {"quality": 100} if suffix == "jpg" else {}
    path = tmp_path / f"x.{suffix}"
    Image.frombytes("CMYK", (160, 16), pixels.tobytes()).save(path, icc_profile=profile(b"CMYK", tags), **options)
    right = lab_to_srgb([inks(*(row / 255)) for row in amounts])
    assert off(load_image(path)[8, 8::16], right) <= 2


def test_lab_pictures(tmp_path):
    Image.new("LAB", (3, 2)).save(tmp_path / "x.tif")
    content = (tmp_path / "x.tif").read_bytes()
    with Image.open(tmp_path / "x.tif") as opened:
        start = opened.tag_v2[273][0]
    values = np.array([[153, 20, 30], [204, -30, 10], [77, 0, -40], [255, 0, 0], [0, 0, 0], [128, 5, 5]])
    body = values.astype(np.int16).astype(np.uint8).tobytes()  # a and b are signed bytes: TIFF 6.0, section 23
    (tmp_path / "x.tif").write_bytes(content[:start] + body + content[start + 18 :])
    right = lab_to_srgb(values * [100 / 255, 1, 1]).reshape(2, 3, 3)
    assert off(load_image(tmp_path / "x.tif"), right) <= 2


@pytest.mark.parametrize(
    "icc, reason",
    [(b"no profile at all", "cannot open profile"), (P3[:300] + bytes(len(P3) - 300), "profile"),
     (profile(b"CMYK", {b"wtpt": xyz(D50), b"A2B0": cmyk_table(inks)}), "a profile for CMYK in a picture of RGB"),
     (GREY_18, "a profile for GRAY in a picture of RGB")],
)  # fmt: skip
def test_a_profile_that_cannot_be_followed_is_one_warning(tmp_path, caplog, icc, reason):
    for name in ("a.png", "b.png"):
        Image.fromarray(scene()).save(tmp_path / name, icc_profile=icc)
        np.testing.assert_array_equal(load_image(tmp_path / name), scene())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "a.png: what it says of its colours" in record.getMessage()
    assert reason in record.getMessage()


def test_a_profile_that_cannot_be_unpacked_is_a_warning_too(tmp_path, caplog):
    png(tmp_path / "x.png", scene(), (b"iCCP", b"P3\0\0not zlib"))
    np.testing.assert_array_equal(load_image(tmp_path / "x.png"), scene())
    assert "taken for sRGB: damaged" in caplog.text


def chromaticities(primaries):
    places = [(0.3127, 0.3290), *primaries]
    return b"cHRM", struct.pack(">8I", *(round(value * 100000) for place in places for value in place))


def gama(exponent):
    return b"gAMA", struct.pack(">I", round(100000 * exponent))


def test_png_gamma_and_chromaticities(tmp_path):
    pixels = stored(scene(), P3_XY, lambda light: light**0.6)
    loaded = load_image(png(tmp_path / "x.png", pixels, gama(0.6), chromaticities(P3_XY)))
    assert off(loaded, shown(pixels, P3_XY, lambda value: value ** (1 / 0.6))) <= 2
    pixels, right = in_p3()
    assert off(load_image(png(tmp_path / "y.png", pixels, chromaticities(P3_XY))), right) <= 2
    usual = png(tmp_path / "z.png", scene(), gama(0.45455), chromaticities(SRGB_XY))  # in half of all PNGs
    np.testing.assert_array_equal(load_image(usual), scene())
    told = png(tmp_path / "s.png", scene(), (b"sRGB", b"\0"), gama(1.0))
    np.testing.assert_array_equal(load_image(told), scene())


def test_png_chromaticities_that_mean_nothing(tmp_path, caplog):
    nonsense = (b"cHRM", bytes(32))
    np.testing.assert_array_equal(load_image(png(tmp_path / "x.png", scene(), nonsense)), scene())
    assert "taken for sRGB: its white and primaries" in caplog.text


def test_png_cicp_comes_before_everything_else(tmp_path, caplog):
    pixels, right = in_p3()
    icc = (b"iCCP", b"x\0\0" + zlib.compress(ADOBE))
    assert off(load_image(png(tmp_path / "p3.png", pixels, (b"cICP", bytes([12, 13, 0, 1])), icc)), right) <= 2
    srgb = png(tmp_path / "srgb.png", scene(), (b"cICP", bytes([1, 13, 0, 1])), icc)
    np.testing.assert_array_equal(load_image(srgb), scene())
    assert not caplog.records
    load_image(png(tmp_path / "pq.png", scene(), (b"cICP", bytes([9, 16, 0, 1]))))
    assert "HDR picture (PQ)" in caplog.text


def relabelled(path, primaries, transfer):
    content = path.read_bytes()
    place = content.index(b"colrnclx") + 8
    path.write_bytes(content[:place] + struct.pack(">HH", primaries, transfer) + content[place + 4 :])
    return path


@pytest.mark.parametrize("suffix", ["avif", "heic"])
def test_numbers_and_profiles_in_avif_and_heic(tmp_path, suffix, caplog):
    """Neither is lossless, so the right value is that of what the file holds, which is near the scene."""
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    else:
        pytest.importorskip("PIL._avif")
    smooth = np.rint(90 + 0.3 * scene(96, 128)).astype(np.uint8)
    options = {"quality": 100, "subsampling": "4:4:4"} if suffix == "avif" else {"quality": -1, "chroma": 444}
    wide = Image.fromarray(stored(smooth, BT2020_XY, encode_srgb))
    wide.save(tmp_path / f"nclx.{suffix}", **options)
    path = relabelled(tmp_path / f"nclx.{suffix}", 9, 13)
    right = shown(np.asarray(Image.open(path)), BT2020_XY, decode_srgb)
    assert off(load_image(path), right) <= 2
    difference = np.abs(right - smooth)
    assert difference.mean() < 1.5 < 2 < np.abs(np.asarray(wide).astype(int) - smooth).mean()
    Image.fromarray(stored(smooth, P3_XY, encode_srgb)).save(tmp_path / f"icc.{suffix}", icc_profile=P3, **options)
    assert np.abs(load_image(tmp_path / f"icc.{suffix}").astype(int) - smooth).mean() < 1
    load_image(relabelled(tmp_path / f"nclx.{suffix}", 9, 18))
    assert "HDR picture (HLG)" in caplog.text


def test_the_mark_of_adobe_rgb_that_cameras_write(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    pixels, _ = in_adobe_rgb()
    Image.fromarray(pixels).save(tmp_path / "_DSC1.jpg", exif=exif, quality=100, subsampling=0)
    assert np.abs(load_image(tmp_path / "_DSC1.jpg").astype(int) - scene()).mean() < 1
    exif.get_ifd(0x8769)[0xA005] = {1: "R98"}
    Image.fromarray(scene()).save(tmp_path / "DSC1.jpg", exif=exif, quality=100, subsampling=0)
    assert np.abs(load_image(tmp_path / "DSC1.jpg").astype(int) - scene()).mean() < 1


def test_strips_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(rgb, "_STRIP", 64 * 5)  # 48 rows in strips of 5
    pixels, right = in_p3()
    Image.fromarray(pixels).save(tmp_path / "x.png", icc_profile=P3)
    assert off(load_image(tmp_path / "x.png"), right) <= 2
