"""PCA of features in the library."""

import logging

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from fungi.config import DINOConfig, KLConfig
from tests.library.models import dataset, pictures, wrap

CONFIGS = [KLConfig(latent_dim=24), DINOConfig(latent_dim=24)]


@pytest.mark.also_with_two_threads
def test_features_equal_the_pca_of_scikit_learn_up_to_signs() -> None:
    wrapper = wrap(configs=CONFIGS)
    train, images = wrapper.extract(pictures(14, seed=2)), pictures(3)
    unreduced = wrapper(images)
    wrapper.fit_pca(train, 4)
    expected = PCA(4, svd_solver="full").fit(train.double().numpy()).transform(unreduced.double().numpy())
    assert np.abs(np.abs(wrapper(images).numpy()) - np.abs(expected)).max() < 1e-4


@pytest.mark.slow
def test_pca_can_be_fitted_on_images_or_features() -> None:
    fitted_on_images, fitted_on_features = wrap(configs=CONFIGS), wrap(configs=CONFIGS)
    data = dataset(9)
    fitted_on_images.fit_pca(data, 3)
    fitted_on_features.fit_pca(fitted_on_features.extract(data), 3)
    assert torch.equal(fitted_on_images(pictures(2)), fitted_on_features(pictures(2)))


@pytest.mark.slow
def test_a_second_pca_is_fitted_on_unreduced_features() -> None:
    wrapper = wrap(configs=CONFIGS)
    wrapper.fit_pca(dataset(9), 3)
    wrapper.fit_pca(dataset(9), 5)
    assert wrapper(pictures(2)).shape == (2, 5)


def test_a_pca_that_does_not_reduce_is_skipped_with_a_log_message(caplog: pytest.LogCaptureFixture) -> None:
    wrapper = wrap(configs=CONFIGS)
    with caplog.at_level(logging.WARNING, logger="fungi"):
        wrapper.fit_pca(dataset(4), 10)
    assert "no PCA: pca_dim 10 is not smaller than the 4 train rows" in caplog.text
    assert wrapper(pictures(1)).shape == (1, 48)
