"""Without a network, errors name the weights and solutions, and weights on disk are used."""

import threading
from urllib.error import URLError

import pytest
import torch
from torch import nn

from fungi.backbones.base import BACKBONES
from fungi.backbones.checkpoints import hash_weights
from fungi.backbones.loading import load_backbone
from fungi.errors import MissingFilesError
from fungi.runtime import network
from fungi.runtime.seeds import seeded
from tests.backbones.small import SMALL, random_state, save, shrink, timm_vit, vit_shapes, with_slow_marks


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Empty the caches, and let every access to the network fail."""
    import huggingface_hub.constants

    def refuse(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))


# The weights of these backbones are in this package, in another package, and random.
WITHOUT_DOWNLOAD = ("digits-vit", "efficientnet-lite0", "random-vit-b16")
WITH_DOWNLOAD = [
    name
    for name in BACKBONES
    if BACKBONES[name].modality == "vision" and BACKBONES[name].pretrained is not None and name not in WITHOUT_DOWNLOAD
]


@pytest.mark.parametrize("name", with_slow_marks(lambda spec: spec.pretrained.func, WITH_DOWNLOAD))
def test_without_a_network_the_error_names_weights_and_solutions(name, no_network):
    # timm builds the model before it downloads the weights, which takes less time on the meta device.
    with torch.device("meta"), pytest.raises(MissingFilesError) as error:
        load_backbone(name)
    text = str(error.value)
    assert "--checkpoint FILE" in text
    assert "\n" not in text
    if "https://" in text:
        assert f"put the file at {torch.hub.get_dir()}/checkpoints/" in text
    else:
        assert "huggingface.co/" in text
        assert "hf download" in text


@pytest.fixture
def no_answer(monkeypatch, tmp_path):
    """Empty the caches, and let no host answer. After this check of the hosts, every use of the network is an error."""
    import huggingface_hub.constants

    monkeypatch.setattr(network, "_replies", lambda url: False)
    network.answers.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(huggingface_hub.file_download, "get_hf_file_metadata", fail)
    monkeypatch.setattr(torch.hub, "urlopen", fail)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    yield
    network.answers.cache_clear()


@pytest.mark.parametrize(
    "name", ["mine=timm:test_vit.r160_in1k", "vit-s16", "dino_vits16", "mae-vit-b16-decoder", "mine=hf:nobody/nothing"]
)
def test_if_no_host_answers_the_error_comes_without_further_attempts(name, no_answer):
    with pytest.raises(MissingFilesError) as error:
        load_backbone(name)
    message = str(error.value)
    assert len(message) < 450
    if name != "dino_vits16":  # the error for a file with a URL says where to put the file
        assert "fungi prefetch" in message


def test_the_wait_for_a_host_without_reply_is_limited(monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 0.01)
    end_of_test = threading.Event()

    def reply_after_a_minute(url: str) -> bool:
        end_of_test.wait(60)
        return True

    monkeypatch.setattr(network, "_replies", reply_after_a_minute)
    network.answers.cache_clear()
    assert not network.answers("https://nowhere.invalid")  # an unlimited wait would end with a reply
    end_of_test.set()
    network.answers.cache_clear()


@pytest.mark.parametrize("option", ["checkpoint", "random_init"])
def test_the_network_is_used_only_for_published_weights(small_backbone, no_network, tmp_path, option, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    value = save(tmp_path, random_state(vit_shapes())) if option == "checkpoint" else True
    load_backbone(SMALL, **{option: value})


def test_a_file_at_the_path_that_the_error_names_is_used(small_backbone, no_network):
    with pytest.raises(MissingFilesError) as error:
        load_backbone(SMALL)
    path = str(error.value).split("put the file at ")[1].split(", or pass")[0]
    torch.save(random_state(vit_shapes()), path)
    assert load_backbone(SMALL).weights_source == f"published weights: {BACKBONES[SMALL].source}"


def test_a_hub_file_in_the_cache_is_used_without_the_network(no_network, monkeypatch, tmp_path):
    import huggingface_hub
    import timm

    arguments = {}

    def create_model(name: str, **options: object) -> nn.Module:
        arguments.update(options)
        return timm_vit()

    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repository, file: f"/cache/{repository}/{file}"
    )
    monkeypatch.setattr(timm, "create_model", create_model)
    BACKBONES["vit-s16"].pretrained()
    expected = "/cache/timm/vit_small_patch16_224.augreg_in1k/model.safetensors"
    assert arguments["pretrained_cfg_overlay"] == {"file": expected}
    assert arguments["pretrained"] is True


def test_the_random_vit_is_drawn_once_and_saved(no_network, monkeypatch):
    from fungi.backbones.families import random_vit

    shrink(monkeypatch, "random-vit-b16")
    monkeypatch.setattr(random_vit, "_build", timm_vit)
    first = load_backbone("random-vit-b16", seed=1)
    assert random_vit.weights_file().exists()
    monkeypatch.setattr(random_vit, "_build", None)  # a second draw would fail
    assert load_backbone("random-vit-b16", seed=2).weights_hash == first.weights_hash
    assert [path.name for path in random_vit.weights_file().parent.iterdir()] == [random_vit.weights_file().name]
    with seeded(42, "backbone", "random-vit-b16"):
        assert hash_weights(timm_vit()) == first.weights_hash
