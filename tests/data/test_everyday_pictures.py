"""Pictures of users: photographs of phones, transparent pixels, and folders that other programs write."""

import unicodedata

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, disable_progress_bars
from PIL import Image as Pillow

from fungi.data.base import open_split
from fungi.data.formats.image_files import LARGEST_RATIO, decode, image_samples
from fungi.data.formats.image_folders import class_folders, image_names
from fungi.errors import FungiError, MissingFilesError
from tests.data.miniatures.miniature import write_image
from tests.data.test_everyday_data import save_dataset

disable_progress_bars()
EXIF_ORIENTATION = 0x0112  # number of the tag in EXIF metadata


def write_photograph(path, orientation, size=(12, 8)):
    """Write a picture that image viewers turn because of its EXIF orientation. Return the upright pixels `[h w 3]`.

    The left half of the upright picture is red, the right half blue.
    """
    upright = Pillow.new("RGB", size, (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    # EXIF orientation -> number of the transposition in Pillow that the image viewer reverses.
    transposition = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    image = upright if transposition is None else upright.transpose(Pillow.Transpose(transposition))
    exif = Pillow.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)
    return np.asarray(upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_of_users_are_turned_upright(orientation, tmp_path):
    upright = write_photograph(tmp_path / "own" / "train" / "cat" / "1.png", orientation)
    samples = open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path)
    np.testing.assert_array_equal(np.asarray(samples.load(0)), upright)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 100, 0, 255), (200, 100, 0)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 0), (255, 255, 255)),
    ],
)
def test_transparent_pixels_are_shown_on_white(mode, colour, expected, tmp_path):
    path = tmp_path / "1.png"
    Pillow.new(mode, (5, 4), colour).save(path)
    np.testing.assert_array_equal(np.asarray(decode(path, "1", as_displayed=True)), np.full((4, 5, 3), expected))


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_pixels_of_a_colour_that_is_declared_transparent_are_white(mode, tmp_path):
    image = Pillow.new("RGB", (4, 4), (10, 10, 10))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    transparent_colour = image.getpixel((0, 0))
    image.save(tmp_path / "1.png", transparency=transparent_colour)
    assert np.asarray(decode(tmp_path / "1.png", "1", as_displayed=True)).min() == 255


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_images_of_published_datasets_and_with_damaged_exif_data_are_not_turned(tmp_path):
    write_photograph(tmp_path / "turned.png", 6)
    assert decode(tmp_path / "turned.png", "1").size == (8, 12)
    image = Pillow.new("RGB", (12, 8))
    image.save(tmp_path / "damaged.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(tmp_path / "damaged.jpg", "1", as_displayed=True).size == (12, 8)


def test_the_fingerprint_and_the_log_contain_the_treatment_of_orientation_and_transparency(tmp_path, log):
    write_photograph(tmp_path / "own" / "train" / "cat" / "1.png", 6)
    samples = open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path)
    assert "EXIF orientation applied, transparency on white" in log.text
    stored_pixels = image_samples(tmp_path / "own", samples.ids, [0], ["cat"])
    assert samples.fingerprint() != stored_pixels.fingerprint()
    assert samples.take([0]).fingerprint() == samples.fingerprint()


def test_pictures_of_a_saved_dataset_are_turned_upright(tmp_path):
    upright = write_photograph(tmp_path / "1.png", 8)
    features = Features({"image": Image(), "label": ClassLabel(names=["cat"])})
    rows = Dataset.from_dict({"image": [{"bytes": (tmp_path / "1.png").read_bytes(), "path": None}], "label": [0]})
    samples = open_split(save_dataset(tmp_path / "own", train=rows.cast(features)), "train", tmp_path)
    np.testing.assert_array_equal(np.asarray(samples.load(0)), upright)


# Ignored folders and files


def test_pictures_in_folders_of_other_programs_are_ignored(tmp_path, log):
    for name in ("cat/1.jpg", "cat/.thumbnails/1.jpg", "cat/@eaDir/1.jpg", "cat/.ipynb_checkpoints/1-checkpoint.jpg"):
        write_image(tmp_path / "own" / "train" / name, name)
    for name in ("__x/2.jpg", "__MACOSX/3.jpg", ".trash/4.jpg"):
        write_image(tmp_path / "own" / "train" / name, name)
    samples = open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path)
    assert list(samples.ids) == ["train/__x/2.jpg", "train/cat/1.jpg"]
    assert "1 in .thumbnails" in log.text
    assert "1 in @eaDir" in log.text


def test_ignored_files_are_counted_by_kind_in_the_log(tmp_path, log):
    train = tmp_path / "own" / "train"
    for name in ("cat/1.jpg", "outside of class folders.png"):
        write_image(train / name, name)
    for name in ("cat/a.avif", "cat/b.avif", "cat/noending", "cat/note.txt", "cat/Thumbs.db", "cat/.hidden.jpg"):
        (train / name).write_bytes(b"?")
    assert list(open_split(f"mine=folder:{tmp_path / 'own'}", "train", tmp_path).ids) == ["train/cat/1.jpg"]
    assert "ignored files: 2 .avif, 1 .txt, 1 next to the class folders, 1 without an ending." in log.text


def test_the_error_for_pictures_without_class_folders_proposes_fungi_similar(tmp_path):
    write_image(tmp_path / "flat" / "1.jpg", "1")
    with pytest.raises(MissingFilesError, match=r"flat has no class folders\. .* fungi similar --images .*flat"):
        open_split(f"mine=split:{tmp_path / 'flat'}", "train", tmp_path)


@pytest.mark.parametrize("ending", ["jpe", "pnm", "JPE"])
def test_images_with_rare_endings_are_read(ending, tmp_path):
    Pillow.new("RGB", (6, 5), (200, 10, 10)).save(tmp_path / f"1.{ending}", "PPM" if ending == "pnm" else "JPEG")
    assert image_names(tmp_path) == [f"1.{ending}"]
    assert decode(tmp_path / f"1.{ending}", "1").size == (6, 5)


def test_class_names_that_look_the_same_are_one_class_in_different_splits_and_refused_in_the_same_split(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write_image(tmp_path / "own" / "train" / composed / "1.png", "1")
    write_image(tmp_path / "own" / "test" / decomposed / "2.png", "2")
    test = open_split(f"mine=folder:{tmp_path / 'own'}", "test", tmp_path)
    assert list(test.class_names) == [composed]
    assert list(test.ids) == [f"test/{decomposed}/2.png"]
    (tmp_path / "own" / "train" / decomposed).mkdir()
    with pytest.raises(FungiError, match=r"look the same, .*cafe\\u0301.*caf\\xe9|caf\\xe9.*cafe\\u0301"):
        class_folders(tmp_path / "own" / "train")


def test_an_extremely_narrow_image_is_refused_before_resizing_needs_gigabytes(tmp_path):
    Pillow.new("RGB", (1, 20_000)).save(tmp_path / "line.png")
    Pillow.new("RGB", (1, LARGEST_RATIO)).save(tmp_path / "narrow.png")
    with pytest.raises(FungiError, match=r"line\.png.*it has 1 x 20,000 pixels"):
        decode(tmp_path / "line.png", "line.png")
    assert decode(tmp_path / "narrow.png", "narrow").size == (1, LARGEST_RATIO)
