"""A user's own audio encoder of `transformers` that takes log-mel spectrograms (AST, 128 bands at 10 ms).

The dataset decides how long clips are and how spectrograms are normalised. A clip that is shorter than the positions of
the model is padded as its feature extractor does; a longer clip is cut.
"""

import warnings
from functools import partial
from typing import Any

from fungi.backbones.base import BackboneSpec
from fungi.backbones.own.anatomy import examine
from fungi.backbones.own.hub import fetch, model_options
from fungi.runtime.network import only_on_disk
from fungi.views.sound import SoundInput

SPECTROGRAM_MODELS = ("audio-spectrogram-transformer",)


def spectrogram_backbone(name: str, place: str, config: Any, *, mean: bool) -> BackboneSpec:
    """Return the backbone for a configuration. mean: use the mean of all tokens as the embedding."""
    from transformers import ASTModel

    sound_input = _sound_input(place, config)
    build = partial(_build, config, mean, padding=-sound_input.mean / (2 * sound_input.deviation))
    anatomy = examine(build, (1, config.max_length, config.num_mel_bins))
    return BackboneSpec(
        name=name,
        modality="audio",
        label=name,
        source=place,
        **anatomy.spec_fields,
        input=sound_input,
        build=build,
        pretrained=partial(fetch, ASTModel, config, place),
        notes=f"embedding: {'mean of all tokens' if mean else 'mean of the two leading tokens'}; {anatomy}",
    )


def _sound_input(place: str, config: Any) -> SoundInput:
    from transformers import AutoFeatureExtractor

    try:
        with warnings.catch_warnings():  # warnings about a filter bank that is not used here
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
    """Return a subclass whose forward maps spectrograms `[n frames mels]` of any length to embeddings `[n d]`."""
    from torch import Tensor
    from torch.nn.functional import pad

    def forward(self: Any, spectrograms: Tensor) -> Tensor:
        length = self.config.max_length
        fitted = pad(spectrograms[:, :length], (0, 0, 0, max(0, length - spectrograms.shape[1])), value=padding)
        output = encoder.forward(self, input_values=fitted)
        return output.last_hidden_state.mean(dim=1) if mean else output.pooler_output

    return type(encoder.__name__, (encoder,), {"forward": forward})
