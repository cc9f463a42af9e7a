"""Settings of `fungi udi pretrain`: the flags and defaults of the published code, and its constants (spec udi 5)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fungi.errors import FungiError
from fungi.extraction.stage import StageSettings
from fungi.pretraining.udi.choices import Coordinates, Optimizer, TargetMix, check_sizes, choose_architecture
from fungi.settings import SEEDS, as_json, like, setting

Pair = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Flags of `fungi udi pretrain`, written with `_` or `-`. Switches also accept `true` or `false`."""

    data_path: Path | None = setting(
        None, "folder of images, with or without class folders; labels are ignored", affects="nothing"
    )
    dataset: str = setting(
        "", "dataset of `fungi list datasets` whose train rows are used; an alternative to --data-path", topic="data"
    )
    data_dir: Path = setting(Path("data"), "folder of the datasets", affects="nothing", topic="data")
    output_dir: Path = setting(
        Path("pretraining"),
        "folder of checkpoints and log; a run in this folder resumes",
        affects="nothing",
        topic="files",
    )
    arch: str = setting(
        "vit_small", "architecture: vit_tiny, vit_small, vit_base, or vit_micro for images of 32 pixels", topic="model"
    )
    patch_size: int = setting(16, "side of a patch, in pixels", within=(1, 1024))
    global_crops_size: int = setting(224, "side of the global crops, in pixels", within=(1, 4096))
    local_crops_size: int = setting(96, "side of the local crops, in pixels", within=(1, 4096))
    out_dim: int = setting(65536, "number of prototypes K", within=(2, 2**22))
    head_hidden_dim: int = setting(2048, "width of the hidden layers of the head", within=(1, 65536))
    head_bottleneck_dim: int = setting(256, "width of the unit vectors of the head", within=(1, 65536))
    include_patch: bool = setting(True, "use the patch level: the SRS layer and the patch loss")
    number_cls_token: int = setting(2, "number of class tokens: 2 (cls and cls+), or 1", within=(1, 2))
    norm_last_layer: bool = setting(True, "keep the lengths of the prototypes at 1")
    use_bn_in_head: bool = setting(False, "use batch norm in the head")
    init: Literal["trunc_normal", "xavier"] = setting(
        "trunc_normal", "initialisation of linear layers; xavier suits narrow networks"
    )
    momentum_teacher: float = setting(
        0.996,
        "first momentum of the teacher, a moving average; cosine schedule to 1; 0.9995 is for batches of 256",
        within=(0, 1),
    )
    center_momentum: float = setting(0.9, "momentum of the centres, which are moving averages", within=(0, 1))
    alpha: float = setting(0.5, "weight of patches in the target of cls+", within=(0, 1))
    target_mix: TargetMix = setting("logits", "what the target of cls+ averages: logits, or probs (probabilities)")
    student_temp: float = setting(0.1, "temperature of the student", within=(1e-4, 100))
    warmup_teacher_temp: float = setting(0.04, "first temperature of the teacher", within=(1e-4, 100))
    teacher_temp: float = setting(0.07, "last temperature of the teacher", within=(1e-4, 100))
    warmup_teacher_temp_epochs: int = setting(
        30, "number of epochs in which the temperature rises linearly to --teacher-temp", within=(0, 10**6)
    )
    use_fp16: bool = setting(True, "compute in bfloat16 on a GPU")
    weight_decay: float = setting(
        0.04, "weight decay of the first step; cosine schedule to --weight-decay-end", within=(0, 10)
    )
    weight_decay_end: float = setting(0.1, "weight decay of the last step", within=(0, 10))
    clip_grad: float = setting(
        3.0, "largest norm of the gradient of each tensor; 0 turns clipping off", within=(0, 1e6)
    )
    batch_size_per_gpu: int = setting(
        128, "number of images that a process computes at once", within=(1, 65536), affects="nothing"
    )
    accumulate_steps: int = setting(
        1, "number of parts of --batch-size-per-gpu images per process and step", within=(1, 65536), affects="nothing"
    )
    epochs: int = setting(300, "number of passes over the images", within=(1, 10**6))
    freeze_last_layer: int = setting(1, "number of first epochs in which the last layer is frozen", within=(0, 10**6))
    lr: float = setting(
        0.0005, "peak learning rate for a batch of 256 images; it is proportional to the batch", within=(0, 100)
    )
    warmup_epochs: int = setting(
        10, "number of epochs in which the learning rate rises linearly to its peak", within=(0, 10**6)
    )
    min_lr: float = setting(1e-5, "last learning rate", within=(0, 100))
    optimizer: Optimizer = setting("adamw", "optimiser: adamw, sgd or lars")
    drop_path_rate: float = setting(
        0.1, "stochastic depth of the student: share of dropped branches in the last block", within=(0, 0.99)
    )
    global_crops_scale: Pair = setting(
        (0.25, 1.0), "smallest and largest share of the image that a global crop covers", within=(1e-6, 1)
    )
    local_crops_number: int = setting(
        6, "number of local crops per image; 10 in the published recipe of 300 epochs", within=(0, 100)
    )
    local_crops_scale: Pair = setting(
        (0.05, 0.25), "smallest and largest share of the image that a local crop covers", within=(1e-6, 1)
    )
    global_sampling_window_size: int = setting(
        3, "side in tokens of the windows for samples of global crops; each window has one sample", within=(1, 1024)
    )
    local_sampling_window_size: int = setting(
        2, "side in tokens of the windows for samples of local crops; each window has one sample", within=(1, 1024)
    )
    coords: Coordinates = setting(
        "corner",
        "token positions; corner: outer tokens on the edge of the crop, as published; center: centres of the cells",
    )
    color_jitter: Pair = setting(
        (0.4, 0.4, 0.2, 0.1), "strengths of the jitter of brightness, contrast, saturation and hue", within=(0, 1)
    )
    blur_radius: Pair = setting((0.1, 2.0), "smallest and largest radius of the blur, in pixels", within=(0, 100))
    profile: Literal["clean", "published"] = like(StageSettings, "profile")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "compute dtype: auto (bfloat16 on a GPU with --use-fp16, otherwise float32), float32, bfloat16",
        topic="machine",
    )
    saveckp_freq: int = setting(
        20,
        "number of epochs between checkpoints with a separate file; 0: only the last checkpoint",
        within=(0, 10**6),
        affects="nothing",
    )
    save_minutes: float = setting(
        10.0, "minutes between checkpoints inside an epoch", within=(0.001, 10**6), affects="nothing"
    )
    seed: int = setting(0, "seed of weights, order and views", within=SEEDS)
    num_workers: int = setting(
        -1,
        "number of worker processes that compute views; -1: 0 on a CPU, all cores except one on a GPU",
        within=(-1, 1024),
        affects="nothing",
        topic="machine",
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", affects="nothing", topic="machine")
    dist_url: str = setting("env://", "no effect; accepted for published commands", affects="nothing")
    local_rank: int = setting(0, "no effect; accepted for published commands", within=(0, 1024), affects="nothing")
    wandb: bool = setting(
        False,
        "log progress to Weights & Biases, offline unless $WANDB_MODE is set",
        affects="nothing",
        topic="files",
    )

    def __post_init__(self) -> None:
        choose_architecture(self.arch)
        check_sizes(
            self.patch_size, **{f"{kind}_crops_size": getattr(self, f"{kind}_crops_size") for kind in self._kinds}
        )
        self._check_pairs()
        self._check_windows()
        if bool(self.data_path) == bool(self.dataset):
            raise FungiError("name the training images, with either --data-path FOLDER or --dataset NAME.")
        if not self.include_patch and self.number_cls_token > 1:
            raise FungiError(
                "--include-patch false needs --number-cls-token 1, because the targets of cls+ need patches."
            )

    @property
    def _kinds(self) -> tuple[str, ...]:
        """The kinds of crops: global and, if there are any, local."""
        return ("global", "local") if self.local_crops_number else ("global",)

    def _check_pairs(self) -> None:
        """Raise FungiError if a range is not (smallest, largest), or if the jitter does not have its four numbers."""
        for name in ("global_crops_scale", "local_crops_scale", "blur_radius"):
            pair = getattr(self, name)
            if len(pair) != 2 or pair[0] > pair[1]:
                raise FungiError(f"--{name.replace('_', '-')} needs two numbers, first the smaller number.")
        if len(self.color_jitter) != 4 or self.color_jitter[3] > 0.5:
            raise FungiError("--color-jitter needs four numbers: brightness, contrast, saturation, and hue up to 0.5.")

    def _check_windows(self) -> None:
        """Raise FungiError if a sampling window is larger than the grid of tokens of its crops."""
        for kind in self._kinds:
            window = getattr(self, f"{kind}_sampling_window_size")
            side = getattr(self, f"{kind}_crops_size") // self.patch_size
            if window > side:
                raise FungiError(
                    f"--{kind}-sampling-window-size {window} is too large: a {kind} crop has {side} x {side} tokens."
                )

    @property
    def root(self) -> Path:
        """The folder of the files of the run."""
        return self.output_dir

    @property
    def backbone(self) -> str:
        """The name of the architecture, for the name of a run at Weights & Biases."""
        return self.arch

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the numbers of a run, as plain JSON values."""
        values, fields = as_json(self), dataclasses.fields(self)
        return {field.name: values[field.name] for field in fields if field.metadata["affects"] != "nothing"}


def our_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments of the published command with our names of flags.

    For example, `--norm_last_layer false` becomes `--no-norm-last-layer`.
    """
    switches = {field.name for field in dataclasses.fields(PretrainSettings) if field.type in (bool, "bool")}
    words: list[str] = []
    for text in arguments:
        words += text.split("=", 1) if text.startswith("--") else [text]
    ours: list[str] = []
    for text in words:
        previous = ours[-1].removeprefix("--").replace("-", "_") if ours else ""
        if text.startswith("--"):
            ours.append(text.replace("_", "-"))
        elif previous in switches and text.lower() in ("true", "1"):
            continue
        elif previous in switches and text.lower() in ("false", "0"):
            ours[-1] = f"--no-{ours[-1].removeprefix('--')}"
        else:
            ours.append(text)
    return ours
