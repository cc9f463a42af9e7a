"""Audio encoders of the user: models of `transformers` that take log-mel spectrograms, such as AST.

If the dataset defines the length of clips and the normalisation of spectrograms (`DatasetSpec.input_options`), its
values are used, otherwise those of the feature extractor of the model. The model takes a fixed number of frames: a
shorter clip is padded as the feature extractor does, and a longer clip is cut.
"""

import warnings
from functools import partial
from typing import Any

from fungi.backbones.base import BackboneSpec
from fungi.backbones.own.hub import fetch, model_options
from fungi.backbones.own.structure import model_structure
from fungi.runtime.network import only_on_disk
from fungi.views.sound import SoundInput

SPECTROGRAM_MODELS = ("audio-spectrogram-transformer",)


def spectrogram_backbone(name: str, place: str, config: Any, *, mean: bool) -> BackboneSpec:
    """Return the backbone `name` for the model at `place`.

    config: configuration of the model. mean: use the mean of all tokens as the embedding.
    """
    from transformers import ASTModel

    sound_input = _sound_input(place, config)
    # The feature extractor pads with 0 before it normalises. This is the normalised value of 0.
    silence = -sound_input.mean / (2 * sound_input.deviation)
    build = partial(_build, config, mean, padding=silence)
    structure = model_structure(build, (1, config.max_length, config.num_mel_bins))
    return BackboneSpec(
        name=name,
        modality="audio",
        label=name,
        source=place,
        **structure.spec_fields,
        input=sound_input,
        build=build,
        pretrained=partial(fetch, ASTModel, config, place),
        notes=f"embedding: {'mean of all tokens' if mean else 'mean of the two leading tokens'}; {structure}",
    )


def _sound_input(place: str, config: Any) -> SoundInput:
    """Return the normalisation of the model's feature extractor; without an extractor, the default normalisation."""
    from transformers import AutoFeatureExtractor

    try:
        with warnings.catch_warnings():  # the extractor warns about its filter bank, which is not used here
            warnings.simplefilter("ignore", UserWarning)
            extractor = AutoFeatureExtractor.from_pretrained(
                place, trust_remote_code=False, local_files_only=only_on_disk(place)
            )
    except (OSError, ValueError):
        return SoundInput(frames=config.max_length)
    return SoundInput(frames=config.max_length, mean=extractor.mean, deviation=extractor.std)


def _build(config: Any, mean: bool, padding: float) -> Any:
    from transformers import ASTModel

    return _pooled(ASTModel, mean, padding)(config, **model_options(ASTModel))


def _pooled(encoder: Any, mean: bool, padding: float) -> Any:
    """Return a subclass of an encoder whose forward maps spectrograms `[n frames mels]` to embeddings `[n d]`.

    Spectrograms of any length are cut or padded to the length of the model. padding: value of the padding.
    """
    from torch import Tensor
    from torch.nn.functional import pad

    def forward(self: Any, spectrograms: Tensor) -> Tensor:
        length = self.config.max_length
        missing_frames = max(0, length - spectrograms.shape[1])
        padded = pad(spectrograms[:, :length], (0, 0, 0, missing_frames), value=padding)
        output = encoder.forward(self, input_values=padded)
        return output.last_hidden_state.mean(dim=1) if mean else output.pooler_output

    return type(encoder.__name__, (encoder,), {"forward": forward})
