"""Windows of tokens in the study of views: their embeddings, their positions and their cost."""

import sys
from pathlib import Path

import pytest
import torch

from fungi.backbones.loading import load_backbone

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from study.token_windows import TokenWindows


def test_a_window_of_all_tokens_gives_the_embedding_of_the_image() -> None:
    model = load_backbone("digits-vit").model
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    single_window = TokenWindows(model, per_side=1, side=8)
    with torch.no_grad():
        windows, expected = single_window.embeddings(single_window.tokens(images)), model(images)
    torch.testing.assert_close(windows.squeeze(1), expected)


def test_windows_are_spread_from_edge_to_edge_and_their_cost_is_counted_in_tokens() -> None:
    windows = TokenWindows(load_backbone("digits-vit").model, per_side=5)
    assert windows.token_indices.shape == (25, 1 + 4 * 4)  # each window has the class token and 4 x 4 patches
    assert (int(windows.token_indices[0, 1]), int(windows.token_indices[-1, -1])) == (1, 64)
    # An image has 65 tokens, a window 17. Only the last of 4 blocks counts.
    assert windows.forwards == pytest.approx(25 * 17 / 65 / 4)
