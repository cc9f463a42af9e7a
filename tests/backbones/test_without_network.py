"""Weights without a network: errors name them, files in the named place are used, random weights are drawn once."""

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
from tests.backbones.small import SMALL, one_fast_name_of_each, random_state, save, shrink, timm_vit, vit_shapes


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Provide empty caches, and a network without answers."""
    import huggingface_hub.constants

    def refuse(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))


SHIPPED = ("digits-vit", "efficientnet-lite0", "random-vit-b16")  # in this package, in another package, random
FETCHED = [
    name
    for name in BACKBONES
    if BACKBONES[name].modality == "vision" and BACKBONES[name].pretrained is not None and name not in SHIPPED
]


@pytest.mark.parametrize("name", one_fast_name_of_each(lambda spec: spec.pretrained.func, FETCHED))
def test_without_a_network_the_error_names_weights_and_solutions(name, no_network):
    with torch.device("meta"), pytest.raises(MissingFilesError) as e:  # meta: timm builds before it fetches
        load_backbone(name)
    text = str(e.value)
    assert "--checkpoint FILE" in text
    assert "\n" not in text
    if "https://" in text:
        assert f"put the file at {torch.hub.get_dir()}/checkpoints/" in text
    else:
        assert "huggingface.co/" in text
        assert "hf download" in text


@pytest.fixture
def no_answer(monkeypatch, tmp_path):
    """Provide empty caches and a hub that does not answer. Only the first probe may use the network."""
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
def test_a_network_without_answer_gives_an_error_at_once(name, no_answer):
    with pytest.raises(MissingFilesError) as error:
        load_backbone(name)
    message = str(error.value)
    assert len(message) < 450
    if name != "dino_vits16":
        assert "fungi prefetch" in message


def test_the_wait_for_a_host_without_reply_is_limited(monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 0.01)
    end = threading.Event()
    monkeypatch.setattr(network, "_replies", lambda url: end.wait(60))
    network.answers.cache_clear()
    assert not network.answers("https://nowhere.invalid")  # while the host still does not reply
    end.set()
    network.answers.cache_clear()


@pytest.mark.parametrize("how", ["checkpoint", "random_init"])
def test_the_network_is_used_only_for_published_weights(small, no_network, tmp_path, how, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    value = save(tmp_path, random_state(vit_shapes())) if how == "checkpoint" else True
    load_backbone(SMALL, **{how: value})


def test_a_file_in_the_place_that_the_error_names_is_used(small, no_network):
    with pytest.raises(MissingFilesError) as e:
        load_backbone(SMALL)
    place = str(e.value).split("put the file at ")[1].split(", or pass")[0]
    torch.save(random_state(vit_shapes()), place)
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
    monkeypatch.setattr(random_vit, "_build", None)  # must not be needed again
    assert load_backbone("random-vit-b16", seed=2).weights_hash == first.weights_hash
    assert [path.name for path in random_vit.weights_file().parent.iterdir()] == [random_vit.weights_file().name]
    with seeded(42, "backbone", "random-vit-b16"):
        assert hash_weights(timm_vit()) == first.weights_hash
