"""Pictures as people have them: photographs of phones, transparent parts, folders that programs leave."""

import unicodedata

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, disable_progress_bars
from PIL import Image as Pillow

from fungi.data.base import open_split
from fungi.data.formats.image_files import LARGEST_RATIO, decode, image_samples
from fungi.data.formats.image_folders import class_folders, image_names
from fungi.errors import FungiError, MissingFilesError
from tests.data.makers.miniature import write_image
from tests.data.test_everyday_data import save

disable_progress_bars()


def photograph(path, orientation, size=(12, 8)):
    """Left half red, right half blue, as a viewer shows it; stored turned, with the tag that says so."""
    shown = Pillow.new("RGB", size, (0, 0, 255))
    shown.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    stored = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # how to undo what viewers do
    image = shown if stored is None else shown.transpose(Pillow.Transpose(stored))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)
    return np.asarray(shown)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_of_ones_own_stand_upright(orientation, tmp_path):
    shown = photograph(tmp_path / "own" / "train" / "cat" / "1.png", orientation)
    samples = open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path)
    np.testing.assert_array_equal(np.asarray(samples.load(0)), shown)


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 100, 0, 255), (200, 100, 0)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 0), (255, 255, 255)),
    ],
)
def test_transparent_parts_are_white_as_on_a_page(mode, colour, seen, tmp_path):
    path = tmp_path / "1.png"
    Pillow.new(mode, (5, 4), colour).save(path)
    np.testing.assert_array_equal(np.asarray(decode(path, "1", as_displayed=True)), np.full((4, 5, 3), seen))


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_is_white_too(mode, tmp_path):
    image = Pillow.new("RGB", (4, 4), (10, 10, 10))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    key = image.getpixel((0, 0))
    image.save(tmp_path / "1.png", transparency=key)
    assert np.asarray(decode(tmp_path / "1.png", "1", as_displayed=True)).min() == 255


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_published_datasets_and_damaged_exif_data_leave_pixels_alone(tmp_path):
    photograph(tmp_path / "turned.png", 6)
    assert decode(tmp_path / "turned.png", "1").size == (8, 12)
    image = Pillow.new("RGB", (12, 8))
    image.save(tmp_path / "odd.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(tmp_path / "odd.jpg", "1", as_displayed=True).size == (12, 8)


def test_how_pictures_are_read_is_part_of_the_fingerprint_and_said(tmp_path, said):
    photograph(tmp_path / "own" / "train" / "cat" / "1.png", 6)
    own = open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path)
    assert "EXIF orientation applied, transparency on white" in said.text
    plain = image_samples(tmp_path / "own", own.ids, [0], ["cat"])
    assert own.fingerprint() != plain.fingerprint()
    assert own.take([0]).fingerprint() == own.fingerprint()


def test_pictures_of_a_saved_dataset_stand_upright(tmp_path):
    shown = photograph(tmp_path / "1.png", 8)
    features = Features({"image": Image(), "label": ClassLabel(names=["cat"])})
    rows = Dataset.from_dict({"image": [{"bytes": (tmp_path / "1.png").read_bytes(), "path": None}], "label": [0]})
    samples = open_split(save(tmp_path / "own", train=rows.cast(features)), "train", tmp_path)
    np.testing.assert_array_equal(np.asarray(samples.load(0)), shown)


# Folders that programs leave, and files that are not read.


def test_folders_of_programs_hold_no_pictures_of_ones_own(tmp_path, said):
    for name in ("cat/1.jpg", "cat/.thumbnails/1.jpg", "cat/@eaDir/1.jpg", "cat/.ipynb_checkpoints/1-checkpoint.jpg"):
        write_image(tmp_path / "own" / "train" / name, name)
    for name in ("__x/2.jpg", "__MACOSX/3.jpg", ".trash/4.jpg"):
        write_image(tmp_path / "own" / "train" / name, name)
    samples = open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path)
    assert list(samples.ids) == ["train/__x/2.jpg", "train/cat/1.jpg"]
    assert "1 in .thumbnails" in said.text
    assert "1 in @eaDir" in said.text


def test_what_is_left_out_is_said_by_kind_and_number(tmp_path, said):
    train = tmp_path / "own" / "train"
    for name in ("cat/1.jpg", "beside.png"):
        write_image(train / name, name)
    for name in ("cat/a.avif", "cat/b.avif", "cat/noending", "cat/note.txt", "cat/Thumbs.db", "cat/.hidden.jpg"):
        (train / name).write_bytes(b"?")
    assert list(open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path).ids) == ["train/cat/1.jpg"]
    assert "ignored files: 2 .avif, 1 .txt, 1 next to the class folders, 1 without an ending." in said.text


def test_pictures_without_class_folders_are_sent_to_similar(tmp_path):
    write_image(tmp_path / "flat" / "1.jpg", "1")
    with pytest.raises(MissingFilesError, match=r"flat has no class folders\. .* fungi similar --images .*flat"):
        open_split(f"mine=split:{tmp_path / 'flat'}", "train", tmp_path)


@pytest.mark.parametrize("ending", ["jpe", "pnm", "JPE"])
def test_rarer_endings_are_read(ending, tmp_path):
    Pillow.new("RGB", (6, 5), (200, 10, 10)).save(tmp_path / f"1.{ending}", "PPM" if ending == "pnm" else "JPEG")
    assert image_names(tmp_path) == [f"1.{ending}"]
    assert decode(tmp_path / f"1.{ending}", "1").size == (6, 5)


def test_names_that_look_the_same_are_one_class_or_shown_apart(tmp_path):
    composed, taken_apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write_image(tmp_path / "own" / "train" / composed / "1.png", "1")
    write_image(tmp_path / "own" / "test" / taken_apart / "2.png", "2")
    test = open_split(f"mine=folder:{tmp_path / 'own'}", "test", tmp_path)
    assert list(test.class_names) == [composed]
    assert list(test.ids) == [f"test/{taken_apart}/2.png"]
    (tmp_path / "own" / "train" / taken_apart).mkdir()
    with pytest.raises(FungiError, match=r"look the same, .*cafe\\u0301.*caf\\xe9|caf\\xe9.*cafe\\u0301"):
        class_folders(tmp_path / "own" / "train")


def test_a_line_of_pixels_is_named_before_it_takes_gigabytes(tmp_path):
    Pillow.new("RGB", (1, 20_000)).save(tmp_path / "line.png")
    Pillow.new("RGB", (1, LARGEST_RATIO)).save(tmp_path / "narrow.png")
    with pytest.raises(FungiError, match=r"line\.png.*it has 1 x 20,000 pixels"):
        decode(tmp_path / "line.png", "line.png")
    assert decode(tmp_path / "narrow.png", "narrow").size == (1, LARGEST_RATIO)
