import importlib.util
import os
import socket
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from gm.data import images
from gm.data.images import fit_image, fit_size, image_size, list_images, load_image, to_signed
from gm.errors import UserError


def picture(height=48, width=64, seed=0):
    """uint8 (h, w, 3) noise: every corner differs, and PNG cannot make it small."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 100 * np.sin(x / 15)], axis=-1).astype(np.uint8)


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def test_folder_is_sorted_filtered_and_not_recursive(tmp_path):
    for name in ("b.JPG", "a.png", "c.Jpeg", "e.webp", "d.BMP"):
        save(tmp_path / name, picture())
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._a.png").write_bytes(b"\0\5\26\7")
    (tmp_path / "sub.png").mkdir()
    assert [file.name for file in list_images(tmp_path)] == ["a.png", "b.JPG", "c.Jpeg", "d.BMP", "e.webp"]


def test_single_file_of_any_case(tmp_path):
    path = save(tmp_path / "PHOTO.PNG", picture())
    assert list_images(str(path)) == [path]


def test_missing_path(tmp_path):
    with pytest.raises(UserError, match="nowhere.png"):
        list_images(tmp_path / "nowhere.png")


def test_other_suffix_names_the_accepted_ones(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match=r"clip\.mp4.*jpg, jpeg, jfif, png, webp, bmp"):
        list_images(tmp_path / "clip.mp4")


def test_folder_of_more_images_than_anyone_waits_for(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_IMAGES", 3)
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "d.txt").touch()
    assert len(list_images(tmp_path)) == 3
    (tmp_path / "e.png").touch()
    with pytest.raises(UserError, match="holds 4 images, and at most 3 are done in one run"):
        list_images(tmp_path)


def test_folder_without_images_counts_the_others(tmp_path):
    with pytest.raises(UserError, match="found 0 other files$"):
        list_images(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"png, webp, bmp, tif.*found 1 other file \(1 \.txt\)$"):
        list_images(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "webp"])
def test_rgb_comes_back_exactly(tmp_path, suffix):
    pixels = picture()
    path = save(tmp_path / f"x.{suffix}", pixels, **({"lossless": True} if suffix == "webp" else {}))
    loaded = load_image(path)
    assert loaded.dtype == np.uint8 and loaded.flags.writeable
    np.testing.assert_array_equal(loaded, pixels)


UPRIGHT = {  # EXIF orientation → what the viewer sees, from the stored pixels
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),  # a quarter turn clockwise
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(tmp_path, orientation):
    pixels, exif = picture(), Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "x.png", pixels, exif=exif)
    np.testing.assert_array_equal(load_image(path), UPRIGHT[orientation](pixels))


def test_exif_orientation_of_a_jpeg(tmp_path):
    pixels, exif = smooth(48, 64), Image.Exif()
    exif[0x0112] = 6
    loaded = load_image(save(tmp_path / "x.jpg", pixels, exif=exif, quality=95))
    assert loaded.shape == (64, 48, 3)
    assert np.abs(loaded.astype(int) - np.rot90(pixels, -1)).mean() < 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_lose_the_picture(tmp_path):
    pixels = picture()
    path = save(tmp_path / "x.png", pixels, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(load_image(path), pixels)


def over_white(colour, alpha):
    weight = alpha[..., None] / 255.0
    return colour * weight + 255 * (1 - weight)


def test_rgba_over_white(tmp_path):
    colour, alpha = picture(), picture(seed=1)[:, :, 0]
    alpha[:8], alpha[8:16] = 0, 255
    loaded = load_image(save(tmp_path / "x.png", np.dstack([colour, alpha])))
    assert np.abs(loaded - over_white(colour, alpha)).max() <= 1
    assert (loaded[:8] == 255).all()
    np.testing.assert_array_equal(loaded[8:16], colour[8:16])


def test_la_over_white(tmp_path):
    grey, alpha = picture()[:, :, 0], picture(seed=1)[:, :, 0]
    path = tmp_path / "x.png"
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(path)
    assert Image.open(path).mode == "LA"
    assert np.abs(load_image(path) - over_white(np.dstack([grey] * 3), alpha)).max() <= 1


def test_palette_with_and_without_transparency(tmp_path):
    indices = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0])
    colours = np.array([[10, 20, 30], [200, 100, 50], [0, 0, 0]], np.uint8)
    image.save(tmp_path / "plain.png")
    np.testing.assert_array_equal(load_image(tmp_path / "plain.png"), colours[indices])
    image.save(tmp_path / "clear.png", transparency=2)
    colours[2] = 255
    assert Image.open(tmp_path / "clear.png").mode == "P"
    np.testing.assert_array_equal(load_image(tmp_path / "clear.png"), colours[indices])


def test_grey_and_black_and_white(tmp_path):
    grey = picture()[:, :, 0]
    np.testing.assert_array_equal(load_image(save(tmp_path / "l.png", grey)), np.dstack([grey] * 3))
    np.testing.assert_array_equal(
        load_image(save(tmp_path / "1.png", grey > 128)), np.dstack([np.where(grey > 128, 255, 0)] * 3)
    )


def test_transparent_colour_of_an_rgb_png(tmp_path):
    pixels = picture()
    pixels[0, 0] = (1, 2, 3)
    loaded = load_image(save(tmp_path / "x.png", pixels, transparency=(1, 2, 3)))
    pixels[0, 0] = 255
    np.testing.assert_array_equal(loaded, pixels)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    wide = np.linspace(0, 65535, 48 * 64).round().astype(np.uint16).reshape(48, 64)
    loaded = load_image(save(tmp_path / "x.png", wide))
    np.testing.assert_array_equal(loaded, np.dstack([np.rint(wide / 257.0).astype(np.uint8)] * 3))
    assert loaded.min() == 0 and loaded.max() == 255 and 120 < loaded.mean() < 135


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    wide = np.full((8, 8), 1000, np.uint16)
    wide[0, 0] = 2000
    loaded = load_image(save(tmp_path / "x.png", wide, transparency=2000))
    assert (loaded[0, 0] == 255).all() and (loaded[1:] == round(1000 / 257)).all()


def raw_png(path, rows, width, depth, colours, transparent=b""):
    """A PNG that Pillow does not write, put together by hand. rows: bytes of each; colours: the spec's type."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colours, 0, 0, 0))]
    parts += [chunk(b"tRNS", transparent)] * bool(transparent)
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_16_bit_rgb_png(tmp_path):
    """Its reader keeps the upper byte."""
    wide = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(">u2")
    rows = [row.tobytes() for row in wide]
    np.testing.assert_allclose(load_image(raw_png(tmp_path / "x.png", rows, 7, 16, 2)), wide / 257.0, atol=1)
    with pytest.raises(UserError, match=r"x\.png: a PNG of 16 bits with a see-through colour"):
        load_image(raw_png(tmp_path / "x.png", rows, 7, 16, 2, struct.pack(">HHH", 0x1234, 0x1234, 0x1234)))


@pytest.mark.parametrize("depth, row, right", [(2, b"\x1b", [0, 255, 170, 255]), (4, b"\x01\xcf", [0, 255, 204, 255])])
def test_a_see_through_grey_of_few_bits(tmp_path, depth, row, right):
    """PNG, 11.3.2.1: the value is one of the file's own, here 1."""
    path = raw_png(tmp_path / "x.png", [row], 4, depth, 0, struct.pack(">H", 1))
    assert load_image(path)[0, :, 0].tolist() == right


@pytest.mark.parametrize("kind", [np.int32, np.float32, ">u2"])
def test_wide_tiff_content(tmp_path, kind):
    wide = np.linspace(0, 65535, 48 * 64).round().reshape(48, 64).astype(kind)
    loaded = load_image(save(tmp_path / "x.png", wide, format="TIFF"))
    np.testing.assert_allclose(loaded[:, :, 1], wide / 257.0, atol=0.51)


def raw_tiff(path, body, shape, bits, **tags):
    """A TIFF 6.0 of kinds that Pillow does not write, put together by hand: body as (height, width) and perhaps colours
    of `shape`, little-endian. tags: t259=[1] and so on in place of what is usual."""
    colours = shape[2] if len(shape) > 2 else 1
    values = {256: [shape[1]], 257: [shape[0]], 258: [bits] * colours, 259: [1], 262: [2 if colours > 1 else 1]}
    values.update({273: [8], 277: [colours], 278: [shape[0]], 279: [len(body)], 284: [1]})
    values.update({int(name[1:]): numbers for name, numbers in tags.items()})
    after, entries = b"", b""
    for tag, numbers in sorted(values.items()):  # all as 32-bit numbers
        place = numbers[0] if len(numbers) == 1 else 8 + len(body) + len(after)
        after += b"" if len(numbers) == 1 else struct.pack(f"<{len(numbers)}I", *numbers)
        entries += struct.pack("<HHII", tag, 4, len(numbers), place)
    directory = struct.pack("<H", len(values)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(body) + len(after)) + body + after + directory)
    return path


def test_16_bit_rgb_tiff(tmp_path):
    wide = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype("<u2")
    loaded = load_image(raw_tiff(tmp_path / "x.tif", wide.tobytes(), wide.shape, 16))
    np.testing.assert_allclose(loaded, wide / 257.0, atol=1)
    body = wide.transpose(2, 0, 1).tobytes()
    sizes = [len(body) // 3] * 3
    raw_tiff(tmp_path / "x.tif", body, wide.shape, 16, t273=[8 + i * sizes[0] for i in range(3)], t279=sizes, t284=[2])
    with pytest.raises(UserError, match=r"x\.tif: a TIFF of 16 bits with its colours in separate planes"):
        load_image(tmp_path / "x.tif")


@pytest.mark.parametrize("kind, numbers", [("<u2", {}), ("<f4", {"t339": [3]})])
def test_a_tiff_whose_white_is_0(tmp_path, kind, numbers):
    """Pillow turns those of 8 bits over, and leaves the wider ones as negatives."""
    wide = np.linspace(0, 65535, 48).reshape(6, 8).round().astype(kind)
    path = raw_tiff(tmp_path / "x.tif", wide.tobytes(), wide.shape, 8 * wide.itemsize, t262=[0], **numbers)
    np.testing.assert_allclose(load_image(path)[:, :, 0], (65535 - wide.astype(float)) / 257, atol=0.51)
    narrow = (wide / 257).astype(np.uint8)
    path = raw_tiff(tmp_path / "y.tif", narrow.tobytes(), narrow.shape, 8, t262=[0])
    np.testing.assert_array_equal(load_image(path)[:, :, 0], 255 - narrow)


def test_a_tiff_of_12_bits(tmp_path):
    values = [0, 1024, 2048, 4095]
    bits = "".join(f"{value:012b}" for value in values)
    body = bytes(int(bits[i : i + 8], 2) for i in range(0, 48, 8))
    assert load_image(raw_tiff(tmp_path / "x.tif", body, (1, 4), 12))[0, :, 1].tolist() == [0, 64, 128, 255]


def test_tiffs_that_would_be_read_as_other_numbers(tmp_path):
    signed = raw_tiff(tmp_path / "x.tif", bytes([0, 127, 128, 255]), (1, 4), 8, t339=[2])
    with pytest.raises(UserError, match="a TIFF of signed numbers of 8 bits"):
        load_image(signed)
    half = raw_tiff(tmp_path / "x.tif", bytes(8), (1, 4), 16, t339=[3])
    with pytest.raises(UserError, match=r"x\.tif .*a damaged TIFF, or one .* of a rare kind: save it as PNG"):
        load_image(half)


@pytest.mark.parametrize("bad", [-1.0, 65536.0, np.nan, 1.0])
def test_floating_point_of_unknown_range_is_refused(tmp_path, bad):
    path = save(tmp_path / "x.png", np.full((8, 8), bad, np.float32), format="TIFF")
    with pytest.raises(UserError, match=r"x\.png.*8-bit"):
        load_image(path)


def test_cmyk_jpeg(tmp_path):
    pixels = smooth(48, 64)
    path = save(tmp_path / "x.jpg", pixels, mode="CMYK", quality=95)
    assert Image.open(path).mode == "CMYK"
    assert np.abs(load_image(path).astype(int) - pixels).mean() < 4


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG"])
def test_animation_gives_its_first_frame(tmp_path, kind):
    first, second = (Image.new("RGB", (64, 48), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    first.save(tmp_path / "x.png", format=kind, save_all=True, append_images=[second], **options)
    with Image.open(tmp_path / "x.png") as image:
        assert image.n_frames == 2
    assert (load_image(tmp_path / "x.png") == (255, 0, 0)).all()


@pytest.mark.parametrize("content", [b"", b"this is a text\n" * 9, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_not_an_image(tmp_path, content):
    (tmp_path / "fake.png").write_bytes(content)
    with pytest.raises(UserError, match=r"fake\.png (is not a readable image|is an empty file)"):
        load_image(tmp_path / "fake.png")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="gone.png"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(UserError, match="is a folder, not an image file"):
        load_image(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_is_an_error_never_half_grey(tmp_path, suffix, part):
    path = save(tmp_path / f"cut.{suffix}", picture(96, 96))
    load_image(path)  # whole, it can be read
    path.write_bytes(path.read_bytes()[: int(os.path.getsize(path) * part)])
    with pytest.raises(UserError, match=r"cut\."):
        load_image(path)


def test_damaged_in_the_middle(tmp_path):
    path = save(tmp_path / "bad.png", picture(96, 96))
    load_image(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.png"):
        load_image(path)


def test_more_suffixes_are_images_and_the_others_are_named(tmp_path, caplog):
    kinds = ("a.jfif", "b.tif", "c.TIFF", "d.gif", "e.avif", "f.HEIC", "g.heif", "h.jpg")
    for name in (*kinds, "IMG_1.CR2", "IMG_2.cr2", "notes.txt", "README", ".DS_Store"):
        (tmp_path / name).touch()
    assert [file.name for file in list_images(tmp_path)] == list(kinds)
    assert "4 other files (2 .cr2, 1 .txt, 1 without suffix) left out" in caplog.text


def test_jfif_tiff_and_gif_are_read(tmp_path):
    pixels = picture()
    for name, kind in (("x.tif", "TIFF"), ("x.tiff", "TIFF"), ("misnamed.jfif", "PNG")):
        np.testing.assert_array_equal(load_image(save(tmp_path / name, pixels, format=kind)), pixels)
    jfif = save(tmp_path / "x.jfif", smooth(48, 64), format="JPEG")
    assert np.abs(load_image(jfif).astype(int) - smooth(48, 64)).mean() < 4
    assert load_image(save(tmp_path / "x.gif", pixels)).shape == pixels.shape


@pytest.mark.parametrize("suffix", ["avif", "heic"])
@pytest.mark.parametrize("orientation", [1, 2, 6, 8])
def test_avif_and_heic_are_turned_once(tmp_path, suffix, orientation):
    """Their own boxes turn them (irot, imir), and the EXIF that says so too must not turn them again."""
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    else:
        pytest.importorskip("PIL._avif")
    pixels, exif = smooth(96, 128), Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"x.{suffix}", pixels, exif=exif.tobytes(), quality=95)
    content = path.read_bytes()
    assert (b"irot" in content or b"imir" in content) == (orientation > 1), "no turn to test"
    right = UPRIGHT[orientation](pixels)
    assert image_size(path) == right.shape[:2]
    assert np.abs(load_image(path).astype(int) - right).mean() < 3


@pytest.mark.parametrize("suffix, brand, needs", [("heic", b"heic", "pillow-heif"), ("avif", b"avif", "AVIF: run")])
def test_a_reader_that_is_not_installed_is_named(tmp_path, monkeypatch, suffix, brand, needs):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + bytes(80))
    if suffix == "avif" or importlib.util.find_spec("pillow_heif"):
        with pytest.raises(UserError, match="damaged, or its content is none of"):
            load_image(path)
    monkeypatch.setattr(images, "_formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(UserError, match=rf"x\.{suffix} is not a readable image \(it is .*{needs}"):
        load_image(path)


@pytest.mark.filterwarnings("ignore:Image size")  # the programs ignore it themselves, where pytest forgets that
def test_the_limit_of_megapixels_is_told_from_the_header(tmp_path, monkeypatch):
    header = struct.pack(">IIBBBBB", 16000, 15626, 8, 2, 0, 0, 0)  # 250.016 megapixels, and no pixels at all
    parts = [(b"IHDR", header), (b"IDAT", b"")]
    png = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png))
    with pytest.raises(UserError, match=r"huge\.png has 16000x15626 pixels, 250 megapixels; at most 250 are read"):
        load_image(tmp_path / "huge.png")
    monkeypatch.setattr(images, "MAX_MEGAPIXELS", 0.003)
    load_image(save(tmp_path / "below.png", picture(50, 60)))
    with pytest.raises(UserError, match="0.003 are read"):
        load_image(save(tmp_path / "above.png", picture(50, 61)))
    assert Image.MAX_IMAGE_PIXELS == 250_000_000


def test_nothing_of_the_library_reaches_the_terminal(tmp_path):
    """A photograph of 96 megapixels, broken EXIF, a file with two TIFF faults: each is a warning of Pillow's."""
    Image.new("L", (12000, 8000), 90).save(tmp_path / "large.jpg", quality=30)
    save(tmp_path / "exif.png", picture(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    save(tmp_path / "tags.tif", picture(), tiffinfo={40000: "x" * 9})
    content = (tmp_path / "tags.tif").read_bytes()
    place = content.index(struct.pack("<HHI", 40000, 2, 10))
    (tmp_path / "tags.tif").write_bytes(content[: place + 4] + struct.pack("<I", 1 << 30) + content[place + 8 :])
    program = "import sys; from gm.data.images import image_size, load_image\n"
    program += "print(image_size(sys.argv[1]), *[load_image(path).shape for path in sys.argv[2:]])"
    paths = [str(tmp_path / name) for name in ("large.jpg", "exif.png", "tags.tif")]
    result = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True)
    assert result.stdout.splitlines() == ["(8000, 12000) (48, 64, 3) (48, 64, 3)"], result.stderr
    assert result.stderr == ""


def test_what_is_no_file_is_told_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s.png"))
    kinds = {"pipe": "a pipe", "loop": "a link to itself", "gone": "a link to nothing", "s": "a socket"}
    for name, kind in kinds.items():
        for read in (load_image, image_size, list_images):
            with pytest.raises(UserError, match=rf"{name}\.png is {kind}, not an image file"):
                read(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="is a device"):
        load_image("/dev/null")
    assert len(list_images(tmp_path)) == 4, "in a folder each is told when its turn comes"


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_the_size_is_that_of_the_upright_picture(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"x.{suffix}", smooth(48, 64), exif=exif)
    assert image_size(path) == load_image(path).shape[:2] == ((64, 48) if orientation == 6 else (48, 64))


def test_fit_size():
    assert fit_size(576, 1024) == (576, 1024)
    assert fit_size(600, 1087) == (576, 1024)
    assert fit_size(64, 127) == (64, 64)
    assert fit_size(100, 100, multiple=8) == (96, 96)


@pytest.mark.parametrize("size", [(1, 1), (63, 500), (500, 63)])
def test_fit_size_refuses_tiny_images(size):
    with pytest.raises(UserError, match=f"{size[1]}x{size[0]} .*--height and --width"):
        fit_size(*size)


def test_fit_image_is_the_identity_where_it_fits():
    pixels = picture(128, 192)
    np.testing.assert_array_equal(fit_image(pixels, 128, 192), pixels)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 64), (64, 320), (320, 320)])
def test_fit_image_keeps_the_aspect_ratio_and_the_centre(height, width):
    """A centred disc stays a centred disc, and as much of the picture as possible is kept."""
    y, x = np.mgrid[0:200, 0:300]
    disc = ((y - 99.5) ** 2 + (x - 149.5) ** 2 < 30**2)[:, :, None] * np.full(3, 255, np.uint8)
    fitted = fit_image(disc, height, width)
    assert fitted.shape == (height, width, 3) and fitted.dtype == np.uint8
    inside = np.argwhere(fitted[:, :, 0] > 127)
    radius = 30 * max(height / 200, width / 300)
    np.testing.assert_allclose(inside.mean(0), [(height - 1) / 2, (width - 1) / 2], atol=0.3)
    shown = np.minimum(2 * radius, (height, width))
    np.testing.assert_allclose(np.ptp(inside, axis=0) + 1, shown, atol=1.1)


def test_to_signed_is_the_reference_arithmetic():
    every = np.arange(256, dtype=np.uint8)
    signed = to_signed(np.broadcast_to(every[:, None, None], (256, 2, 3)))
    assert signed.shape == (1, 3, 256, 2) and signed.dtype == np.float32 and signed.flags.c_contiguous
    expected = (every.astype(np.float32) / np.float32(255)) * np.float32(2) - np.float32(1)
    np.testing.assert_array_equal(signed[0, 1, :, 1], expected)
    assert signed.min() == -1 and signed.max() == 1
    pixels = picture()
    assert to_signed(pixels)[0, 2, 5, 7] == expected[pixels[5, 7, 2]]
