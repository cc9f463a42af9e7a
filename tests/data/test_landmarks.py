"""Landmarks: ground truth, boxes, and pickles that could run code."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from fungi.data.base import DATASETS
from fungi.data.sets import oxford_landmarks, paris_landmarks
from fungi.errors import FungiError
from tests.data.miniatures.oxford_landmarks import TRUTH


@pytest.mark.parametrize("name", ["oxford-landmarks", "paris-landmarks"])
def test_the_ground_truth_equals_the_file_and_has_python_numbers(name, miniature):
    dataset = miniature(name)
    truth = DATASETS[name].ground_truth(dataset.data_dir)
    assert truth == TRUTH
    assert all(type(row) is int for query in truth for kind in ("easy", "hard", "junk") for row in query[kind])


def test_each_dataset_reads_its_own_ground_truth(miniature):
    data_dir = miniature("oxford-landmarks").data_dir
    assert oxford_landmarks.ground_truth(data_dir) == TRUTH
    with pytest.raises(FungiError, match="dataset 'paris-landmarks': no rparis6k/jpg"):
        paris_landmarks.ground_truth(data_dir)


def test_cropped_queries_are_cropped_to_their_boxes(miniature):
    dataset = miniature("oxford-landmarks")
    path = dataset.expected.files["jpg/radcliffe_camera_000519.jpg"]
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    left, top, right, bottom = (int(edge) for edge in TRUTH[0]["bbx"])
    cropped = np.asarray(dataset.open("test-cropped").load(0))
    np.testing.assert_array_equal(cropped, pixels[top:bottom, left:right])
    np.testing.assert_array_equal(np.asarray(dataset.open("test").load(0)), pixels)


def test_the_intact_part_of_a_truncated_image_is_read(miniature):
    dataset = miniature("oxford-landmarks")
    path = dataset.expected.files["jpg/all_souls_000013.jpg"]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-1500])
    assert dataset.open("train").load(0).size == (64, 64)


class _RunsCode:
    """An object that runs a shell command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("echo this must not run > code-ran",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_with_code_is_refused_before_the_code_runs(protocol, miniature, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = miniature("oxford-landmarks")
    file = dataset.data_dir / "retrieval-landmarks" / "roxford5k" / "gnd_roxford5k.pkl"
    file.write_bytes(pickle.dumps({"imlist": [], "qimlist": [], "gnd": _RunsCode()}, protocol=protocol))
    with pytest.raises(FungiError, match=r"ground-truth file was refused: it contains posix\.system"):
        dataset.open("train")
    assert not (tmp_path / "code-ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(["imlist"]), pickle.dumps({"imlist": []})])
def test_the_error_for_a_damaged_ground_truth_names_the_file(content, miniature):
    dataset = miniature("oxford-landmarks")
    file = dataset.data_dir / "retrieval-landmarks" / "roxford5k" / "gnd_roxford5k.pkl"
    file.write_bytes(content)
    with pytest.raises(FungiError, match=r"dataset 'oxford-landmarks': .*gnd_roxford5k\.pkl"):
        dataset.open("train")


def _listing_with(query, **fields):
    """Return the content of a ground-truth file of four images and two queries.

    query: number of the query whose fields are replaced by `fields`.
    """
    truth = {"easy": [0], "hard": [1], "junk": [], "bbx": [0.0, 0.0, 4.0, 4.0]}
    truths = [dict(truth), dict(truth)]
    truths[query].update(fields)
    return {"imlist": ["a", "b", "c", "d"], "qimlist": ["e", "f"], "gnd": truths}


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ({**_listing_with(0), "imlist": "abcd"}, "imlist that is not a list of file names"),
        ({**_listing_with(0), "imlist": ["a", 3, "c", "d"]}, "imlist that is not a list of file names"),
        ({**_listing_with(0), "imlist": ["a", "../b", "c", "d"]}, "imlist that is not a list of file names"),
        ({**_listing_with(0), "qimlist": ["/etc/e", "f"]}, "qimlist that is not a list of file names"),
        ({**_listing_with(0), "gnd": 5}, "not have an entry in gnd for each of its 2 queries"),
        ({**_listing_with(0), "gnd": [{}]}, "not have an entry in gnd for each of its 2 queries"),
        ({**_listing_with(0), "gnd": [{}, 5]}, "no easy, hard, junk and bbx for query 0"),
        (_listing_with(1, easy=7), "has rows beyond its 4 images for query 1"),
        (_listing_with(1, hard=[4]), "has rows beyond its 4 images for query 1"),
        (_listing_with(0, junk=[-1]), "has rows beyond its 4 images for query 0"),
        (_listing_with(0, junk=["a"]), "has rows beyond its 4 images for query 0"),
        (_listing_with(1, bbx=[1, 2, 3]), "no box of four numbers for query 1"),
        (_listing_with(0, bbx=[1, 2, 3, float("nan")]), "no box of four numbers for query 0"),
    ],
)
def test_the_error_for_an_invalid_field_names_the_field(listing, message, miniature):
    dataset = miniature("oxford-landmarks")
    file = dataset.data_dir / "retrieval-landmarks" / "roxford5k" / "gnd_roxford5k.pkl"
    file.write_bytes(pickle.dumps(listing))
    for read in (lambda: dataset.open("train"), lambda: DATASETS["oxford-landmarks"].ground_truth(dataset.data_dir)):
        with pytest.raises(FungiError, match=rf"dataset 'oxford-landmarks': .*gnd_roxford5k\.pkl .*{message}"):
            read()
