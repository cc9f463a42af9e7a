"""Ground truth of the landmarks, the boxes, and the refusal of pickles that are more than data."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from fungi.data.base import DATASETS
from fungi.data.sets import oxford_landmarks, paris_landmarks
from fungi.errors import FungiError
from tests.data.makers.oxford_landmarks import TRUTH


@pytest.mark.parametrize("name", ["oxford-landmarks", "paris-landmarks"])
def test_ground_truth_is_that_of_the_file_in_plain_numbers(name, miniature):
    made = miniature(name)
    truth = DATASETS[name].ground_truth(made.data_dir)
    assert truth == TRUTH
    assert all(type(row) is int for query in truth for kind in ("easy", "hard", "junk") for row in query[kind])


def test_each_file_exposes_its_ground_truth(miniature):
    data_dir = miniature("oxford-landmarks").data_dir
    assert oxford_landmarks.ground_truth(data_dir) == TRUTH
    with pytest.raises(FungiError, match="dataset 'paris-landmarks': no rparis6k/jpg"):
        paris_landmarks.ground_truth(data_dir)


def test_cropped_queries_are_the_boxes_of_the_queries(miniature):
    made = miniature("oxford-landmarks")
    path = made.expected.files["jpg/radcliffe_camera_000519.jpg"]
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    left, top, right, bottom = (int(edge) for edge in TRUTH[0]["bbx"])
    cropped = np.asarray(made.open("test-cropped").load(0))
    np.testing.assert_array_equal(cropped, pixels[top:bottom, left:right])
    np.testing.assert_array_equal(np.asarray(made.open("test").load(0)), pixels)


def test_truncated_landmark_is_read_as_far_as_it_goes(miniature):
    made = miniature("oxford-landmarks")
    path = made.expected.files["jpg/all_souls_000013.jpg"]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-1500])
    assert made.open("train").load(0).size == (64, 64)


class _RunsCode:
    def __reduce__(self):
        return os.system, ("echo this must not run > pwned",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_would_run_code_is_refused_before_it_does(protocol, miniature, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = miniature("oxford-landmarks")
    file = made.data_dir / "retrieval-landmarks" / "roxford5k" / "gnd_roxford5k.pkl"
    file.write_bytes(pickle.dumps({"imlist": [], "qimlist": [], "gnd": _RunsCode()}, protocol=protocol))
    with pytest.raises(FungiError, match=r"ground-truth file was refused: it contains posix\.system"):
        made.open("train")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(["imlist"]), pickle.dumps({"imlist": []})])
def test_damaged_ground_truth_is_named(content, miniature):
    made = miniature("oxford-landmarks")
    file = made.data_dir / "retrieval-landmarks" / "roxford5k" / "gnd_roxford5k.pkl"
    file.write_bytes(content)
    with pytest.raises(FungiError, match=r"dataset 'oxford-landmarks': .*gnd_roxford5k\.pkl"):
        made.open("train")


def _wrong(place, **fields):
    """A whole listing of four images with one query's fields changed."""
    truth = {"easy": [0], "hard": [1], "junk": [], "bbx": [0.0, 0.0, 4.0, 4.0]}
    truths = [dict(truth), dict(truth)]
    truths[place].update(fields)
    return {"imlist": ["a", "b", "c", "d"], "qimlist": ["e", "f"], "gnd": truths}


@pytest.mark.parametrize(
    ("listing", "complaint"),
    [
        ({**_wrong(0), "imlist": "abcd"}, "imlist that is not a list of file names"),
        ({**_wrong(0), "imlist": ["a", 3, "c", "d"]}, "imlist that is not a list of file names"),
        ({**_wrong(0), "imlist": ["a", "../b", "c", "d"]}, "imlist that is not a list of file names"),
        ({**_wrong(0), "qimlist": ["/etc/e", "f"]}, "qimlist that is not a list of file names"),
        ({**_wrong(0), "gnd": 5}, "not have an entry in gnd for each of its 2 queries"),
        ({**_wrong(0), "gnd": [{}]}, "not have an entry in gnd for each of its 2 queries"),
        ({**_wrong(0), "gnd": [{}, 5]}, "no easy, hard, junk and bbx for query 0"),
        (_wrong(1, easy=7), "has rows beyond its 4 images for query 1"),
        (_wrong(1, hard=[4]), "has rows beyond its 4 images for query 1"),
        (_wrong(0, junk=[-1]), "has rows beyond its 4 images for query 0"),
        (_wrong(0, junk=["a"]), "has rows beyond its 4 images for query 0"),
        (_wrong(1, bbx=[1, 2, 3]), "no box of four numbers for query 1"),
        (_wrong(0, bbx=[1, 2, 3, float("nan")]), "no box of four numbers for query 0"),
    ],
)
def test_fields_of_another_kind_are_named(listing, complaint, miniature):
    made = miniature("oxford-landmarks")
    file = made.data_dir / "retrieval-landmarks" / "roxford5k" / "gnd_roxford5k.pkl"
    file.write_bytes(pickle.dumps(listing))
    for use in (lambda: made.open("train"), lambda: DATASETS["oxford-landmarks"].ground_truth(made.data_dir)):
        with pytest.raises(FungiError, match=rf"dataset 'oxford-landmarks': .*gnd_roxford5k\.pkl .*{complaint}"):
            use()
