"""`fungi udi export-backbone`: write the vision transformer of a checkpoint for other programs (spec udi 6.2, 6.3)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fungi.backbones.checkpoint_files import read_content
from fungi.backbones.checkpoints import unwrap
from fungi.backbones.families.udi import encoder_state, timm_tokens
from fungi.errors import FungiError
from fungi.settings import required, setting

if TYPE_CHECKING:
    from fungi.backbones.base import StateDict

DESCRIPTION = """Write the vision transformer of a UDI checkpoint, without heads and optimiser, in one of three layouts.

published      a file (.pth, .safetensors) of flat names with both class tokens in one tensor, for --checkpoint of every
               stage and for the published code (--class-tokens 1 for its fine-tuning, 0 for its detection)
timm           a folder: timm.create_model("local-dir:FOLDER", pretrained=True)
transformers   a folder: AutoModel.from_pretrained(FOLDER). With two class tokens the model is a DINOv2 with one
               register, which computes the same function. With one class token it is a ViT."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Flags of `fungi udi export-backbone`: weights, layout and output."""

    checkpoint: Path = required("checkpoint of `fungi udi pretrain`, or a published checkpoint", topic="model")
    output: Path = required("file to write (published), or folder (timm, transformers)", topic="files")
    layout: Literal["published", "timm", "transformers"] = setting("published", "layout: published, timm, transformers")
    checkpoint_key: Literal["teacher", "student"] = setting(
        "teacher", "network to write: teacher or student", aliases=("--checkpoint_key",), topic="model"
    )
    class_tokens: int | None = setting(
        None,
        "number of class tokens to keep, 0 to 2; if it is smaller than in the checkpoint, the outputs change",
        within=(0, 2),
    )

    def __post_init__(self) -> None:
        if self.class_tokens == 0 and self.layout != "published":
            raise FungiError("--class-tokens 0 (for detection) needs --layout published.")


def run(settings: ExportSettings) -> Path:
    """Write the backbone, and return its file or folder."""
    from fungi.pretraining.udi.layouts import save_published, save_timm, save_transformers, shape_of

    state = read_weights(settings.checkpoint, settings.checkpoint_key)
    shape = shape_of(state, str(settings.checkpoint))
    class_tokens = shape.class_tokens if settings.class_tokens is None else settings.class_tokens
    if class_tokens > shape.class_tokens:
        raise FungiError(f"{settings.checkpoint} has one class token. Use --class-tokens 1.")
    save = {"published": save_published, "timm": save_timm, "transformers": save_transformers}[settings.layout]
    save(state, shape, class_tokens, settings.output)
    return settings.output


def show(settings: ExportSettings, path: Path) -> None:
    """Print the path of the backbone, and the code that reads it."""
    reading_code = {
        "published": f"--checkpoint {path}",
        "timm": f'timm.create_model("local-dir:{path}", pretrained=True)',
        "transformers": f'transformers.AutoModel.from_pretrained("{path}")',
    }
    print(f"wrote {path}\nread it with {reading_code[settings.layout]}")


def read_weights(checkpoint: Path, key: str) -> "StateDict":
    """Return the weights of the teacher or the student in a checkpoint of any layout, with timm's names.

    A file without the keys `teacher` and `student` contains a single network, which is used as the teacher. Raises
    FungiError if the file does not have the weights of `key`.
    """
    content = read_content(checkpoint)
    if isinstance(content, dict) and key in content:
        content = content[key]
    elif key == "student" or (isinstance(content, dict) and "student" in content):
        raise FungiError(
            f"{checkpoint} has no weights of the {key}. Give a full checkpoint, or another --checkpoint-key."
        )
    return timm_tokens(encoder_state(unwrap(content, checkpoint)))
