"""Weighted kNN, linear probe, features and attention maps (spec udi 6.4, 7, and test 10 of section 9.4)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.backbones.base import BACKBONES
from fungi.backbones.position_embedding import hub_positions
from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.evaluators.linear_sgd import linear_probe
from fungi.evaluators.weighted_knn import weighted_knn
from fungi.pretraining.tokens import embed, last_attention, last_blocks
from fungi.pretraining.transfer.attention_maps import class_attention, smallest_masks, write_maps, write_overview
from fungi.pretraining.transfer.evaluate import EvaluateSettings
from fungi.pretraining.transfer.evaluate import _score as score
from fungi.pretraining.transfer.features import pooled
from tests.pretraining.test_label_propagation import bilinear


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BACKBONES["udi-micro"].build().eval()


def ranked_classes(train, train_targets, query, k: int, temperature: float) -> list[int]:
    """Return the classes by their votes for a query, the class with most votes first."""
    similarity = [float(row @ query / (row.norm() * query.norm())) for row in train]
    nearest = sorted(range(len(train)), key=lambda row: -similarity[row])[:k]
    votes = dict.fromkeys(range(6), 0.0)
    for row in nearest:
        votes[int(train_targets[row])] += math.exp(similarity[row] / temperature)
    return sorted(votes, key=lambda label: -votes[label])


# exp(1 / 0.002) is larger than the largest float32
@pytest.mark.parametrize("temperature", [0.3, 0.002])
def test_weighted_votes_equal_a_loop_over_train_rows(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    train, queries = torch.randn(60, 5, generator=generator), torch.randn(17, 5, generator=generator)
    train_labels = torch.randint(6, (60,), generator=generator)
    labels = torch.randint(6, (17,), generator=generator)
    scores = weighted_knn(train, train_labels, queries, labels, [1, 7, 40], temperature=temperature)
    for k in (1, 7, 40):
        ranked = [ranked_classes(train, train_labels, query, k, temperature) for query in queries]
        top1 = [order[0] == int(label) for order, label in zip(ranked, labels, strict=True)]
        assert scores[k]["accuracy"] == pytest.approx(np.mean(top1))
        if k == 40 and temperature == 0.3:  # only then do five classes have votes for every query
            top5 = [int(label) in order[:5] for order, label in zip(ranked, labels, strict=True)]
            assert scores[k]["top5"] == pytest.approx(np.mean(top5))


def test_more_neighbours_than_train_rows_are_refused() -> None:
    rows, labels = torch.randn(4, 2), torch.arange(4)
    with pytest.raises(FungiError, match="k = 5 is too large: only 4 train rows can vote"):
        weighted_knn(rows, labels, rows, labels, [2, 5])


def test_a_number_of_neighbours_that_is_named_twice_is_scored_once() -> None:
    rows, labels = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    assert weighted_knn(rows, labels, rows, labels, [5, 5, 2]) == weighted_knn(rows, labels, rows, labels, [5, 2])


def test_a_linear_probe_separates_separable_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    rows = 5 * torch.eye(3)[labels] + torch.randn(90, 3, generator=generator) * 0.3
    scores = linear_probe(rows, labels, rows[:30], labels[:30], rate=1.0, epochs=10, batch=32)
    assert scores == {"accuracy": 1.0, "last-accuracy": 1.0}


@pytest.mark.slow
def test_logistic_regression_equals_scikit_learn() -> None:
    """The setting C of scikit-learn is 1 / penalty. Classes overlap, so the penalty changes the accuracy."""
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (150,), generator=generator)
    rows = torch.eye(3)[targets] @ torch.randn(3, 8, generator=generator) + torch.randn(150, 8, generator=generator)
    settings = EvaluateSettings(arch="vit_micro", task="logistic", regularization=(0.01, 1.0), epochs=1000)
    results = score(settings, (rows[:60], targets[:60], rows[60:], targets[60:]))
    unit = torch.nn.functional.normalize(rows, dim=1).numpy()
    expected = {}
    for penalty in (0.01, 1.0):
        model = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-8, max_iter=1000)
        expected[f"l2={penalty:g}"] = model.fit(unit[:60], targets[:60]).score(unit[60:], targets[60:])
    assert len(set(expected.values())) == 2
    for name, scores in results.items():
        assert scores["accuracy"] == pytest.approx(expected[name], abs=0.012), name  # one of 90 images


def test_the_tokens_equal_those_of_timm(model) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = model.forward_features(images)
        first, last = last_blocks(model, images, 2)
        torch.testing.assert_close(last, tokens, rtol=1e-4, atol=1e-5)
        expected = model.forward_intermediates(
            images, indices=2, norm=True, return_prefix_tokens=True, output_fmt="NLC"
        )
        patches, prefix = expected[1][0]
        torch.testing.assert_close(first, torch.cat([prefix, patches], dim=1), rtol=1e-4, atol=1e-5)


def test_the_name_of_a_feature_states_its_tokens(model) -> None:
    blocks = [torch.randn(2, 66, 64) for _ in range(2)]
    assert torch.equal(pooled(model, blocks, "cls"), torch.cat([blocks[0][:, 0], blocks[1][:, 0]], dim=1))
    assert torch.equal(pooled(model, blocks[1:], "cls+"), blocks[1][:, 1])
    assert torch.equal(pooled(model, blocks[1:], "concat"), blocks[1][:, :2].reshape(2, -1))
    torch.testing.assert_close(pooled(model, blocks, "patch_mean"), blocks[1][:, 2:].sum(1) / 64)
    class_and_mean = torch.cat([blocks[1][:, 0], pooled(model, blocks, "patch_mean")], dim=1)
    assert torch.equal(pooled(model, blocks, "cls_patch_mean"), class_and_mean)
    with pytest.raises(FungiError, match="one class token"):
        pooled(BACKBONES["udi-micro-one-token"].build(), blocks, "cls+")


def test_other_resolutions_do_not_change_the_positions_of_class_tokens(model) -> None:
    """The published code resizes the grid by the factor (new side + 0.1) / old side."""
    resized = hub_positions(model.pos_embed, grid=(5, 11), prefix=model.num_prefix_tokens)
    assert resized.shape == (1, 2 + 55, 64)
    assert torch.equal(resized[:, :2], model.pos_embed[:, :2])
    grid = model.pos_embed[:, 2:].reshape(1, 8, 8, 64).permute(0, 3, 1, 2)
    factor = (5.1 / 8, 11.1 / 8)
    expected = torch.nn.functional.interpolate(grid, scale_factor=factor, mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(resized[:, 2:], expected)
    assert embed(model, torch.zeros(1, 3, 20, 44)).shape == (1, 57, 64)


def test_attention_maps_have_a_cell_for_each_patch_and_none_for_class_tokens(model) -> None:
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        attention, maps = last_attention(model, image), class_attention(model, image, 1)
    assert attention.shape == (1, 4, 98, 98)
    torch.testing.assert_close(attention.sum(-1), torch.ones(1, 4, 98))
    assert maps.shape == (4, 8, 12)
    torch.testing.assert_close(maps.flatten(1), attention[0, :, 1, 2:])


def test_attention_equals_the_attention_inside_the_last_block(model) -> None:
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        tokens = embed(model, image)
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        last = model.blocks[-1]
        value = last.attn.qkv(last.norm1(tokens)).unflatten(-1, (3, 4, 16))[:, :, 2].transpose(1, 2)
        mixed = (last_attention(model, image) @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(last.attn.proj(mixed), last.attn(last.norm1(tokens)), rtol=1e-4, atol=1e-5)


def test_masks_have_the_fewest_patches_with_the_share_of_attention() -> None:
    attention = torch.tensor([[[0.5, 0.05], [0.3, 0.15]]])
    assert smallest_masks(attention, 0.6).flatten().tolist() == [True, False, True, False]
    assert smallest_masks(attention, 0.9).flatten().tolist() == [True, False, True, True]


def test_pictures_are_written_for_every_head_of_both_tokens(model, tmp_path: Path) -> None:
    pixels, image = Image.new("RGB", (32, 32), (90, 120, 30)), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        paths = write_maps(tmp_path, model, pixels, image, threshold=0.6)
        write_overview(tmp_path / "all.png", model, [(pixels, image)] * 2, side=16)
    names = {"img"} | {
        f"{kind}-{middle}head{h}" for kind in ("attn", "mask") for middle in ("", "plus-") for h in range(4)
    }
    assert {path.stem for path in paths} == names
    for path in paths:
        with Image.open(path) as picture:
            assert picture.size == (32, 32)
            assert "attn" not in path.stem or np.asarray(picture).max() == 255  # the largest attention is white
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.size[1] == 36


def test_pictures_of_attention_are_interpolated_between_the_centres_of_patches(model, tmp_path: Path) -> None:
    image = torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        write_maps(tmp_path, model, Image.new("RGB", (32, 24)), image)
        maps = class_attention(model, image, 1).double().numpy()
    for head, attention in enumerate(maps):
        enlarged = bilinear(attention[..., None], 24, 32)[..., 0]
        with Image.open(tmp_path / f"attn-plus-head{head}.png") as picture:
            difference = np.asarray(picture).astype(float) - 255 * enlarged / enlarged.max()
        assert np.abs(difference).max() < 0.51  # pixels are rounded to whole numbers


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--k",), "--k needs at least one value"),
        (("--train-share", "0.9"), "--train-share 0.9 needs 4 rows of each class, but a class has only 2"),
    ],
)
def test_the_message_about_an_invalid_evaluation_names_the_flag(flags, message, tmp_path, capsys) -> None:
    for row, label in enumerate("aaab" * 2):  # class a has 6 rows, class b has 2
        for split in ("train", "val"):
            path = tmp_path / split / label / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 20 * row, dtype=np.uint8)).save(path)
    common = ["--arch", "vit_micro", "--random-init", "--data-path", str(tmp_path), "--device", "cpu"]
    assert COMMANDS["evaluate-encoder"].main([*common, *flags]) == 2
    assert message in capsys.readouterr().err
