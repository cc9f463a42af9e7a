"""Every readable image is converted to RGB; an unreadable image raises a FungiError that names it."""

import io
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from torchvision.datasets import ImageFolder

from fungi.data.formats.image_files import decode, image_samples, to_rgb
from fungi.data.formats.image_folders import class_folder_samples, class_folders, image_names
from fungi.data.names import PackedNames
from fungi.errors import FungiError

RAMP = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)  # grey levels


def _save(path: Path, image: Image.Image, **options) -> Path:
    """Save an image, and return its path."""
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_is_converted_to_rgb_with_the_same_brightness(mode, tmp_path):
    if mode == "I;16":
        image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    elif mode == "1":
        image = Image.fromarray(RAMP > 127)
    else:
        image = Image.fromarray(RAMP).convert("RGB").convert(mode)
    ending = ".jpg" if mode in ("CMYK", "YCbCr") else ".png"
    options = {"quality": 100} if ending == ".jpg" else {}
    decoded = decode(_save(tmp_path / f"image{ending}", image, **options), "image")
    assert decoded.mode == "RGB"
    expected = (RAMP > 127) * 255 if mode == "1" else RAMP.astype(int)
    # The tolerance is one step of the palette of 216 web colours, or the rounding of JPEG.
    np.testing.assert_allclose(np.asarray(decoded, dtype=int).mean(-1), expected, atol=52 if mode == "P" else 4)


def test_a_palette_with_transparency_keeps_its_colours_without_a_warning(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    path = _save(tmp_path / "palette.png", image, transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(path, "palette").getpixel((2, 2)) == (200, 100, 50)


def test_rgb_pixels_are_not_changed():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(pixels))), pixels)


def test_a_truncated_image_is_refused_by_default_and_read_if_allowed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = _save(tmp_path / "cut.jpg", Image.fromarray(pixels))
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(FungiError, match=rf"'cut': can't read {path} .*[Tt]runcated.*Replace the file"):
        decode(path, "cut")
    assert decode(path, "cut", truncated=True).size == (64, 64)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("flag", [True, False])
def test_the_truncation_flag_of_pillow_is_restored_after_an_error(flag, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", flag)
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(FungiError):
        decode(tmp_path / "bad.jpg", "bad", truncated=True)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is flag


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_file_gives_an_image_or_an_error_with_its_name(kind, data):
    buffer = io.BytesIO()
    Image.fromarray(RAMP).convert("RGB").save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of unusual metadata and very large sizes
        mode_or_error = _mode_or_error(bytes(content))
    assert mode_or_error == "RGB" or mode_or_error.startswith("sample 'damaged': can't read row 3 (")
    assert "\n" not in mode_or_error


def _mode_or_error(content: bytes) -> str:
    """Return the mode of the decoded image, or the message of the error."""
    try:
        return decode(content, "damaged", place="row 3").mode
    except FungiError as error:
        return str(error)


def test_class_folders_are_read_as_in_torchvision(tmp_path):
    for name in ("b/2.PNG", "b/10.jpg", "a/z.jpeg", "a/deep/er/1.png", "a/deep/0.png", "a/note.txt"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    samples = class_folder_samples(tmp_path, "train", class_folders(tmp_path / "train"))
    oracle = ImageFolder(str(tmp_path / "train"), is_valid_file=None)
    expected = [(str(Path(path).relative_to(tmp_path)), label) for path, label in oracle.samples]
    assert list(zip(samples.ids, samples.targets.tolist(), strict=True)) == expected


def test_hidden_files_and_folders_are_skipped(tmp_path):
    for name in ("a/1.png", "a/._1.png", ".cache/1.png", "__MACOSX/1.png"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    samples = class_folder_samples(tmp_path, "train", class_folders(tmp_path / "train"))
    assert list(samples.ids) == ["train/a/1.png"]


@pytest.mark.slow
@given(names=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]))))
def test_packed_names_equal_the_names(names):
    packed = PackedNames(names)
    assert list(packed) == names
    assert list(packed[1:]) == names[1:]
    if names:
        assert packed[-1] == names[-1]
    with pytest.raises(IndexError):
        packed[len(names)]


def test_a_file_name_that_is_not_unicode_is_refused():
    with pytest.raises(FungiError, match="not valid UTF-8"):
        image_samples(Path(), [b"caf\xe9.jpg".decode(errors="surrogateescape")], [0])


def test_selecting_rows_twice_keeps_ids_labels_and_images(tmp_path):
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        Image.new("RGB", (2, 2), (number * 40, 0, 0)).save(tmp_path / name)
    samples = image_samples(tmp_path, names, range(5)).take([4, 2, 0]).take([2, 0])
    assert list(samples.ids) == ["0.png", "4.png"]
    assert samples.targets.tolist() == [0, 4]
    assert [samples.load(row).getpixel((0, 0))[0] for row in range(2)] == [0, 160]


@pytest.fixture
def alarm():
    """Stop a test after ten seconds."""

    def raise_timeout(*_):
        raise TimeoutError

    earlier_handler = signal.signal(signal.SIGALRM, raise_timeout)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, earlier_handler)


@pytest.mark.parametrize("link", ["train/cat/loop", "train/loop"])
def test_a_link_to_a_folder_that_contains_it_is_refused(link, tmp_path):
    _save(_new_folder(tmp_path / "train" / "cat") / "1.png", Image.new("RGB", (4, 4)))
    (tmp_path / link).symlink_to(tmp_path / "train", target_is_directory=True)
    with pytest.raises(FungiError, match="is a link to a folder that contains it"):
        image_names(tmp_path / "train")


def test_links_to_other_folders_and_files_are_followed(tmp_path):
    _save(_new_folder(tmp_path / "elsewhere") / "1.png", Image.new("RGB", (4, 4)))
    _new_folder(tmp_path / "cat")
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "cat" / "0.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert image_names(tmp_path / "cat") == ["0.png", "again/1.png", "more/1.png"]


def test_a_pipe_instead_of_an_image_is_refused_without_waiting(tmp_path, alarm):
    os.mkfifo(_new_folder(tmp_path / "cat") / "1.png")
    with pytest.raises(FungiError, match=r"cat/1\.png is not a file but a pipe"):
        image_names(tmp_path / "cat")
    with pytest.raises(FungiError, match=r"sample '1': .*cat/1\.png is not a file but a folder, a pipe"):
        decode(tmp_path / "cat" / "1.png", "1")


def test_a_link_without_a_target_is_refused(tmp_path):
    (_new_folder(tmp_path / "cat") / "1.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(FungiError, match=r"cat/1\.png is not a file but a pipe, a device or a link without a target"):
        image_names(tmp_path / "cat")


def test_the_upper_eight_bits_of_a_16_bit_pgm_are_read(tmp_path):
    header, values = b"P5 8 8 65535\n", (RAMP.astype(">u2") << 8) + 255  # the upper 8 bits are RAMP
    half_brightness = values >> 1
    (tmp_path / "dark.pgm").write_bytes(header + half_brightness.astype(">u2").tobytes())
    decoded = np.asarray(decode(tmp_path / "dark.pgm", "dark"))[..., 0]
    np.testing.assert_allclose(decoded, RAMP.astype(int) // 2, atol=1)
    below_256 = values >> 12  # the upper 8 bits are 0
    (tmp_path / "black.pgm").write_bytes(header + below_256.astype(">u2").tobytes())
    assert not np.asarray(decode(tmp_path / "black.pgm", "black")).any(), "the contrast was stretched"


def test_grey_values_with_an_unknown_white_level_are_refused(tmp_path):
    _save(tmp_path / "a.tiff", Image.fromarray(np.eye(4, dtype=np.float32)))
    with pytest.raises(FungiError, match=r"sample 'a': can't read .*a\.tiff \(its grey values are fractions"):
        decode(tmp_path / "a.tiff", "a")


def _new_folder(folder: Path) -> Path:
    """Create a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
