"""The gradient of each patch equals a slow computation by autograd and loops in float64."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from fungi.backbones.encoders import TokenEncoder
from fungi.errors import FungiError
from fungi.gradients.engine import GradientEngine
from fungi.gradients.terms import EachPosition
from fungi.search.stored import BankSearch
from fungi.segmentation.dense import DenseExtractor, DenseLoss, Support
from fungi.store.banks import PatchRows
from tests.segmentation.tiny import CPU, WIDTH, extractor, images, random_support, tiny_vit

DRAW_SEEDS = [11, 12, 13, 14]


def image_loss(tokens: Tensor, support: Tensor, dense: DenseExtractor, draw_seed: int) -> Tensor:
    """Return the loss of one image (spec 4.2), computed with loops over tokens in float64."""
    weight, bias = dense.head.weight.double(), dense.head.bias.double()
    latents = [weight @ token + bias for token in tokens]
    candidates = []
    for token in tokens.detach():
        order = (support @ token).argsort(descending=True)
        candidates += [weight @ support[row] + bias for row in order[:2]]
    is_kept = torch.rand(len(candidates), generator=torch.Generator().manual_seed(draw_seed)) < 0.5
    negatives = [latent for latent, keep in zip(candidates, is_kept.tolist(), strict=True) if keep]
    cosine = torch.nn.functional.cosine_similarity
    losses = []
    for i, z in enumerate(latents):
        others = [cosine(z, other, dim=0) / 0.07 for j, other in enumerate(latents) if j != i]
        negative_cosines = [cosine(z, other, dim=0) / 0.07 for other in negatives]
        losses.append(torch.logsumexp(torch.stack(others + negative_cosines), 0) - torch.stack(others).mean())
    return torch.stack(losses).mean()


def slow_gradients(
    dense: DenseExtractor, model, image: Tensor, support: Support, draw_seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of weight and bias for one image, and the term of each token `[t o i+1]`, by autograd."""
    import copy

    model = copy.deepcopy(model).double()
    layer = model.blocks[1].attn.proj
    activations: dict[str, Tensor] = {}

    def keep(module, inputs, output):
        activations["a"], activations["out"] = inputs[0][0], output
        output.retain_grad()

    layer.weight.requires_grad_(), layer.bias.requires_grad_()
    hook = layer.register_forward_hook(keep)
    tokens = model.forward_features((image.double() / 255 - 0.5)[None] / 0.5)[0]
    prefix = model.num_prefix_tokens
    tokens = torch.cat([tokens[:1], tokens[prefix:]])
    bank = torch.from_numpy(support.bank.features(0, support.bank.rows)).double()
    image_loss(tokens, bank, dense, draw_seed).backward()
    hook.remove()
    delta = activations["out"].grad[0]
    inputs = torch.cat([activations["a"].detach(), torch.ones(len(delta), 1, dtype=torch.float64)], dim=1)
    return layer.weight.grad, layer.bias.grad, torch.einsum("to,ti->toi", delta, inputs)


def raw_terms(dense: DenseExtractor, batch: Tensor, support: Support, draw_seeds: list[int], prefix: int) -> Tensor:
    """Return the terms before projection, `[b t o i+1]`, for all tokens from position `prefix` on."""
    engine = GradientEngine(
        dense.engine.model, dense.engine.targets, device=CPU, short_cut=False, positions=EachPosition(prefix)
    ).with_encoder(TokenEncoder)
    extracted = engine.extract(batch, dense.views, {"simclr": dense._loss_of(draw_seeds, support)})
    return extracted.gradients["simclr"]["attn_proj"].unflatten(2, (WIDTH, WIDTH + 1))


@pytest.mark.parametrize("registers", [0, 2])
def test_the_sum_of_token_terms_is_the_gradient_of_the_image(registers: int, tmp_path: Path) -> None:
    model, support = tiny_vit(registers=registers), random_support(tmp_path / "bank")
    dense, batch = extractor(model), images(2)
    terms = raw_terms(dense, batch, support, DRAW_SEEDS[:2], prefix=0)
    for image in range(2):
        weight, bias, term_of_tokens = slow_gradients(dense, model, batch[image], support, DRAW_SEEDS[image])
        size = weight.abs().max()
        torch.testing.assert_close(terms[image].sum(0)[:, :-1].double(), weight, rtol=0, atol=1e-5 * float(size))
        torch.testing.assert_close(terms[image].sum(0)[:, -1].double(), bias, rtol=0, atol=1e-5 * float(size))
        torch.testing.assert_close(terms[image].double(), term_of_tokens, rtol=0, atol=1e-5 * float(size))


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("kind", ["khatri-rao", "binary"])
def test_features_equal_the_slow_gradients(kind: str, tmp_path: Path) -> None:
    model, support = tiny_vit(registers=1), random_support(tmp_path / "bank")
    dense, batch = extractor(model, kind=kind), images(2)
    features = dense.features("embeddings+simclr", batch, DRAW_SEEDS[:2], support)
    matrix = dense.engine.projectors["attn_proj"].matrix.dense().double()
    for image in range(2):
        terms = slow_gradients(dense, model, batch[image], support, DRAW_SEEDS[image])[2][model.num_prefix_tokens :]
        projected = normalize(terms.flatten(1) @ matrix.T, dim=1)
        tokens = normalize(dense.features("embeddings", batch[image : image + 1], [0])[0].double(), dim=1)
        expected = normalize(torch.cat([tokens, projected], dim=1), dim=1)
        torch.testing.assert_close(features[image].double(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(features.norm(dim=2), torch.ones(features.shape[:2]))


@pytest.mark.also_with_two_threads
def test_features_do_not_depend_on_the_batch_or_the_order_of_images(tmp_path: Path) -> None:
    dense, support, batch = extractor(tiny_vit()), random_support(tmp_path / "bank"), images(4)
    together = dense.features("embeddings+simclr", batch, DRAW_SEEDS, support)
    alone = [dense.features("embeddings+simclr", batch[i : i + 1], [DRAW_SEEDS[i]], support)[0] for i in (3, 0, 2, 1)]
    torch.testing.assert_close(together, torch.stack([alone[i] for i in (1, 3, 2, 0)]), rtol=0, atol=2e-6)


def test_other_draws_give_other_gradients_and_the_same_embeddings(tmp_path: Path) -> None:
    dense, support, batch = extractor(tiny_vit()), random_support(tmp_path / "bank"), images(1)
    first, second = (dense.features("embeddings+simclr", batch, [seed], support) for seed in (1, 2))
    torch.testing.assert_close(first[..., :WIDTH], second[..., :WIDTH])
    assert (first - second)[..., WIDTH:].abs().max() > 1e-3


def test_an_error_names_the_image_with_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    dense, support, batch = extractor(tiny_vit()), random_support(tmp_path / "bank"), images(3).float() / 255
    batch[1] = torch.nan
    with pytest.raises(FungiError, match=r"gradient of a patch is not finite for 'b\.png' \(1 in this batch\)"):
        dense.features("simclr", batch, DRAW_SEEDS[:3], support, ["a.png", "b.png", "c.png"])


class LargestTensor(TorchDispatchMode):
    """A recorder of the size of the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        outputs = function(*arguments, **(keywords or {}))
        for tensor in outputs if isinstance(outputs, tuple | list) else (outputs,):
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.numel())
        return outputs


def test_khatri_rao_never_has_all_terms_in_memory_and_a_dense_matrix_has_them_in_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terms of all tokens are larger than any other tensor here, so the largest tensor shows them."""
    support, loss = random_support(tmp_path / "bank"), DenseLoss(latent_dim=8)
    term, all_terms = WIDTH * (WIDTH + 1), 16 * WIDTH * (WIDTH + 1)
    sizes = {}
    monkeypatch.setattr("fungi.gradients.engine.GRADIENTS_TOGETHER", 4)
    for kind in ("khatri-rao", "binary"):
        dense = extractor(tiny_vit(), kind=kind, rows=8, loss=loss)
        with LargestTensor() as largest:
            dense.features("embeddings+simclr", images(1), [1], support)
        sizes[kind] = largest.entries
    assert sizes["khatri-rao"] < 1300 < all_terms  # about half of all 16 x 156 numbers
    assert sizes["binary"] < all_terms
    monkeypatch.setattr("fungi.gradients.engine.GRADIENTS_TOGETHER", 16)
    with LargestTensor() as largest:  # the measurement detects all terms if they are in memory
        extractor(tiny_vit(), kind="binary", rows=8, loss=loss).features("simclr", images(1), [1], support)
    assert largest.entries >= all_terms == 16 * term


def test_negatives_are_the_neighbours_or_the_published_permutation() -> None:
    neighbours = torch.arange(3 * 5 * 4.0).reshape(3, 5, 4)  # [n k d]
    clean, published = DenseLoss(), DenseLoss(neighbour_layout="published")
    assert torch.equal(clean.candidates(neighbours), neighbours[:, :2])
    # The published code reads the numbers of `[k d]` as `[d k]`, and transposes them.
    block = neighbours[2].reshape(4, 5).T
    assert torch.equal(published.candidates(neighbours)[2], block[:2])
    assert (clean.neighbours, published.neighbours) == (2, 5)


def test_about_half_of_the_candidates_are_kept_and_at_least_one() -> None:
    is_kept = DenseLoss().draw_negatives(5_000, [1, 2])
    assert abs(float(is_kept.float().mean()) - 0.5) < 5 * 0.5 / 20_000**0.5  # five standard deviations
    assert not torch.equal(is_kept[0], is_kept[1])
    assert DenseLoss(kept=0.0).draw_negatives(4, [1]).sum() == 1


def test_the_search_covers_only_tokens_with_a_negative() -> None:
    dense, query_counts = extractor(tiny_vit()), []
    keys = PatchRows(normalize(torch.randn(50, WIDTH), dim=1).numpy())
    exact = BankSearch(keys, CPU)

    def counting_search(queries: Tensor, k: int):
        query_counts.append(len(queries))
        return exact(queries, k)

    dense.features("simclr", images(2), [1, 2], Support(keys, counting_search))
    assert query_counts == [int(dense.loss.draw_negatives(17, [1, 2]).any(dim=2).sum())]
    assert query_counts[0] < 34  # two images of 17 tokens


@pytest.mark.parametrize(
    "switch",
    [{"denominator_temperature": False}, {"normalise_tokens_before_head": True}, {"neighbour_layout": "published"}],
)
def test_every_switch_of_the_loss_changes_gradients(switch: dict, tmp_path: Path) -> None:
    model, support, batch = tiny_vit(), random_support(tmp_path / "bank"), images(1)
    default, changed = (
        extractor(model, loss=loss).features("simclr", batch, [1], support) for loss in (None, DenseLoss(**switch))
    )
    assert torch.nn.functional.cosine_similarity(default, changed, dim=2).min() < 0.999
