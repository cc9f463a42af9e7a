"""Every setting of the paper or its published code, with its source and the default of the program.

The values are typed from the sources, not from the code. `spec vision 4.2` is a section of the specifications. Tables
and figures are those of the paper. `response` is the author response.
"""

from fungi.ablations.ablate import AblateSettings
from fungi.backbones.base import BACKBONES
from fungi.backbones.timm_models import SIZES
from fungi.combine.protocol import DEFAULT_PCA_DIM, usual_pca_dim
from fungi.data.base import DATASETS
from fungi.evaluators.linear import LAMBDAS
from fungi.evaluators.logistic import LogisticOptions
from fungi.extraction.gradient_settings import GradientSettings
from fungi.gradients.projection import draw_projection
from fungi.in_context.settings import InContextSettings
from fungi.objectives.deepcluster import PUBLISHED_PROTOTYPES
from fungi.objectives.simclr import NEGATIVE_VIEWS
from fungi.profiles import PROFILES
from fungi.scoring.cluster import ClusterSettings
from fungi.scoring.knn_concat import KnnSettings
from fungi.scoring.linear_settings import LinearSettings
from fungi.scoring.retrieval_eval import RetrievalSettings
from fungi.views import filter_bank, masked_crops
from fungi.views.image import CLIP, HALF, IMAGENET
from fungi.views.random_views import AUGMENTED_SIZE
from tests.published.readings import (
    Published,
    augmentation,
    bound,
    contrastive_step,
    crop_parameters,
    expected_crop,
    jitter_strengths,
    of_command,
    of_config,
    of_objective,
)

TEXT, AUDIO = "bert-base-uncased", "patch-ssast"
SEED = 42

VIEWS = [
    *(
        Published("spec vision 4.2", f"dino crop {view}", expected_crop((0.25, 1.0)), lambda v=view: crop_parameters(v))
        for view in (0, 1)
    ),
    *(
        Published(
            "spec vision 4.2", f"dino crop {view}", expected_crop((0.05, 0.25)), lambda v=view: crop_parameters(v)
        )
        for view in (2, 11)
    ),
    *(
        Published(
            "spec vision 4.5", f"ibot crop {view}", expected_crop(area), lambda v=view: crop_parameters(v, "ibot")
        )
        for view, area in ((0, (0.25, 1.0)), (1, (0.25, 1.0)), (2, (0.05, 0.25)), (11, (0.05, 0.25)))
    ),
    # The two bank crops are global crops. They come before the eight crops that predict.
    *(
        Published(
            "spec vision 4.4",
            f"deepcluster crop {view}",
            expected_crop(area, "bilinear"),
            lambda v=view: crop_parameters(v, "deepcluster"),
        )
        for view, area in ((0, (0.14, 1.0)), (3, (0.14, 1.0)), (4, (0.05, 0.14)), (9, (0.05, 0.14)))
    ),
    Published("spec vision 4.4", "deepcluster crops", 2 + 2 + 6, lambda: bound("deepcluster").views.n_views),
    *(
        Published("spec vision 4.2", f"blur of view {view}", probability, lambda v=view: augmentation(v)["blur"])
        for view, probability in ((0, 1.0), (1, 0.1), (2, 0.5), (11, 0.5))
    ),
    *(
        Published(
            "spec vision 4.2", f"solarisation of view {view}", probability, lambda v=view: augmentation(v)["solarize"]
        )
        for view, probability in ((0, 0.0), (1, 0.2), (2, 0.0))
    ),
    Published("spec vision 4.2", "flips", 0.5, lambda: augmentation(0)["flip"]),
    Published("spec vision 4.2", "colour jitter", [0.4, 0.4, 0.2, 0.1], lambda: augmentation(0)["colours"]),
    Published("spec vision 4.2", "share of colour jitter", 0.8, lambda: augmentation(0)["jitter"]),
    Published("spec vision 4.2", "share of grey", 0.2, lambda: augmentation(0)["grey"]),
    Published("spec vision 4.3", "contrastive flips", 0.5, lambda: contrastive_step(0).p),
    Published("spec vision 4.3", "contrastive size", 96, lambda: AUGMENTED_SIZE),
    Published(
        "spec vision 4.3", "contrastive jitter", [0.5, 0.5, 0.5, 0.1], lambda: jitter_strengths(contrastive_step(2))
    ),
    Published("spec vision 4.3", "share of contrastive jitter", 0.8, lambda: contrastive_step(2).p),
    Published("spec vision 4.3", "contrastive grey", 0.2, lambda: contrastive_step(3).p),
    Published("spec vision 4.3", "contrastive blur", (9, 9), lambda: tuple(contrastive_step(4).kernel_size)),
    Published("spec vision 4.5", "smallest aspect of a block", 0.3, lambda: masked_crops.ASPECT),
    Published("spec vision 4.5", "attempts per block", 10, lambda: masked_crops.ATTEMPTS),
    Published("spec vision 4.5", "random ratios", (0.1, 0.5), lambda: masked_crops.RANDOM_RATIOS),
    Published("spec vision 2.2", "ImageNet mean", (0.485, 0.456, 0.406), lambda: IMAGENET[0]),
    Published("spec vision 2.2", "ImageNet deviation", (0.229, 0.224, 0.225), lambda: IMAGENET[1]),
    Published("spec vision 2.2", "CLIP mean", (0.48145466, 0.4578275, 0.40821073), lambda: CLIP[0]),
    Published("spec vision 2.2", "CLIP deviation", (0.26862954, 0.26130258, 0.27577711), lambda: CLIP[1]),
    Published("spec vision 2.2", "mean and deviation of one half", ((0.5,) * 3, (0.5,) * 3), lambda: HALF),
    *(
        Published(
            "figure 12",
            f"patches at stride scale {scale}",
            count,
            lambda s=scale: bound("simclr", stride_scale=s).views.n_views,
        )
        for scale, count in ((6, 49), (4, 25), (3, 16), (1, 4))
    ),
]

OBJECTIVES = [
    of_objective("kl", "temperature", 15, "table 17"),
    of_objective("kl", "latent_dim", 768, "table 17"),
    of_objective("kl", "direction", "uniform_to_pred", "spec vision 4.1"),
    of_objective("kl", "normalize", True, "table 6"),
    of_objective("kl", "project", True, "table 6"),
    of_objective("kl", "latent_dim", 768, "spec text 3.1", backbone=TEXT),
    of_objective("kl", "temperature", 15, "spec text 3.1", backbone=TEXT),
    of_objective("kl", "latent_dim", 768, "spec audio 4.1", backbone=AUDIO),
    of_objective("kl", "temperature", 15, "spec audio 4.1", backbone=AUDIO),
    of_objective("dino", "student_temperature", 0.1, "table 17"),
    of_objective("dino", "teacher_temperature", 0.07, "table 17"),
    of_objective("dino", "latent_dim", 2048, "table 17"),
    of_objective("dino", "teacher_views", 2, "spec vision 4.2"),
    of_objective("dino", "global_crops", 2, "spec vision 4.2"),
    of_objective("dino", "local_crops", 10, "spec vision 4.2"),
    of_objective("dino", "augmentation", "crops", "table 15"),
    of_objective("dino", "shared_head", False, "table 15"),
    of_objective("dino", "skip_same_view", False, "spec vision 4.2"),
    of_objective("dino", "normalize", True, "spec vision 4.2"),
    of_objective("simclr", "temperature", 0.07, "table 17"),
    of_objective("simclr", "latent_dim", 96, "table 17"),
    of_objective("simclr", "negative_samples", 256, "table 17"),
    of_objective("simclr", "grid", 2, "table 17"),
    of_objective("simclr", "stride_scale", 6, "table 17"),
    of_objective("simclr", "stride", 18, "spec vision 4.3"),
    of_objective("simclr", "side", 112, "spec vision 4.3"),
    of_objective("simclr", "normalize", False, "spec vision 4.3"),
    of_objective("simclr", "denominator_temperature", True, "spec vision 4.3"),
    of_objective("simclr", "denominator_temperature", True, "spec vision V23", profile="published"),
    of_objective("simclr", "hard_negatives", (), "spec vision 4.3"),
    of_objective("simclr", "negatives_mixing", False, "spec vision 4.3"),
    of_objective("simclr", "mixed_negatives", 20, "spec vision 4.3"),
    of_objective("simclr", "exclude_self_from_negatives", False, "spec vision V8"),
    Published("spec vision 4.3", "random views per negative", 2, lambda: NEGATIVE_VIEWS),
    of_objective("simclr", "n_views", 12, "spec text 3.2", backbone=TEXT),
    of_objective("simclr", "latent_dim", 256, "spec text 3.2", backbone=TEXT),
    of_objective("simclr", "temperature", 0.07, "spec text 3.2", backbone=TEXT),
    of_objective("simclr", "negative_samples", 256, "spec text 3.2", backbone=TEXT),
    of_objective("simclr", "probability", 0.1, "spec text 3.3", backbone=TEXT),
    of_objective("simclr", "rule", "independent", "spec text 6.1", backbone=TEXT),
    of_objective("simclr", "rule", "count", "spec text 6.1", backbone=TEXT, profile="published"),
    of_objective("simclr", "denominator_temperature", True, "spec text 6.1", backbone=TEXT),
    of_objective("simclr", "denominator_temperature", False, "spec text 6.1", backbone=TEXT, profile="published"),
    of_objective("simclr", "normalize", False, "spec text 3.2", backbone=TEXT),
    of_objective("simclr", "n_views", 16, "spec audio 4.2", backbone=AUDIO),
    of_objective("simclr", "latent_dim", 768, "spec audio 4.2", backbone=AUDIO),
    of_objective("simclr", "temperature", 0.07, "spec audio 4.2", backbone=AUDIO),
    of_objective("simclr", "negative_samples", 64, "spec audio 4.2", backbone=AUDIO),
    of_objective("simclr", "noise", 0.1, "spec audio 4.2", backbone=AUDIO),
    of_objective("simclr", "shift", 10, "spec audio 4.2", backbone=AUDIO),
    of_objective("simclr", "normalize", False, "spec audio 4.2", backbone=AUDIO),
    of_objective("simclr", "denominator_temperature", True, "spec audio 6.1", backbone=AUDIO),
    of_objective("simclr", "denominator_temperature", False, "spec audio 6.1", backbone=AUDIO, profile="published"),
    of_objective("deepcluster", "temperature", 0.1, "spec vision 4.4"),
    of_objective("deepcluster", "latent_dim", 128, "spec vision 4.4"),
    of_objective("deepcluster", "prototype_heads", 3, "spec vision 4.4"),
    of_objective("deepcluster", "iterations", 10, "spec vision 4.4"),
    Published("spec vision 4.4", "deepcluster prototypes", 3000, lambda: PUBLISHED_PROTOTYPES),
    of_objective("ibot", "mask_ratio", 0.3, "spec vision 4.5"),
    of_objective("ibot", "random_ratio", False, "spec vision 4.5"),
    of_objective("ibot", "student_temperature", 0.1, "spec vision 4.5"),
    of_objective("ibot", "teacher_temperature", 0.07, "spec vision 4.5"),
    of_objective("ibot", "latent_dim", 2048, "spec vision 4.5"),
    of_objective("ibot", "class_loss", True, "spec vision 4.5"),
    of_objective("ibot", "local_crops", 10, "spec vision 4.5"),
    of_objective("mim", "class_loss", False, "spec vision 4.5"),
]

LIBRARY = [
    *of_config("KLConfig", {"temperature": 15, "latent_dim": 768, "direction": "uniform_to_pred"}, "table 17"),
    *of_config("KLConfig", {"normalize": True, "project": True}, "table 6"),
    *of_config("DINOConfig", {"teacher_temperature": 0.07, "student_temperature": 0.1, "latent_dim": 2048}, "table 17"),
    *of_config("DINOConfig", {"global_crops": 2, "local_crops": 10, "skip_same_view": False}, "spec vision 4.2"),
    *of_config("DINOConfig", {"shared_head": False, "augmentation": "crops", "normalize": True}, "table 15"),
    *of_config("SimCLRConfig", {"temperature": 0.07, "comparison_batch_size": 256, "latent_dim": 96}, "table 17"),
    *of_config("SimCLRConfig", {"num_patches": 4, "stride_scale": 6, "views": "patches"}, "table 17"),
    *of_config("SimCLRConfig", {"normalize": False, "mixing_k": 20, "negatives_mixing": False}, "spec vision 4.3"),
    *of_config("SimCLRConfig", {"exclude_self_from_negatives": False, "hard_negatives": ()}, "spec vision V8"),
    *of_config("DeepClusterConfig", {"temperature": 0.1, "prototype_heads": 3, "iterations": 10}, "spec vision 4.4"),
    *of_config("DeepClusterConfig", {"latent_dim": 128}, "spec vision 4.4"),
    *of_config("IBOTConfig", {"teacher_temperature": 0.07, "student_temperature": 0.1}, "spec vision 4.5"),
    *of_config("IBOTConfig", {"latent_dim": 2048, "mask_ratio": 0.3, "class_loss": True}, "spec vision 4.5"),
]

ESC_50 = [f"esc-50{suffix}" for suffix in ("", *(f"-fold{fold}" for fold in range(2, 6)))]
SOUNDS = [
    *(
        Published(
            "spec audio 2",
            name,
            {"frames": 512, "mean": -6.6268077, "deviation": 5.358466},
            lambda n=name: dict(DATASETS[n].input_options),
        )
        for name in ESC_50
    ),
    Published(
        "spec audio 2",
        "speech-commands",
        {"frames": 128, "mean": -6.845978, "deviation": 5.5654526},
        lambda: dict(DATASETS["speech-commands"].input_options),
    ),
    Published("spec audio 4.2", "noise stage", "before_norm", lambda: BACKBONES[AUDIO].input.noise_stage),
    Published("spec audio 2", "frame and step", (400, 160), lambda: (filter_bank.FRAME, filter_bank.STEP)),
    Published("spec audio 2", "padded frame and filters", (512, 128), lambda: (filter_bank.PADDED, filter_bank.MELS)),
    Published("spec audio 2", "edges of the filters", (20, 8000), lambda: (filter_bank.LOW, filter_bank.HIGH)),
    Published("spec audio 2", "pre-emphasis", 0.97, lambda: filter_bank.PRE_EMPHASIS),
    Published("spec audio 2", "floor", 1.1920929e-7, lambda: filter_bank.FLOOR),
    Published("spec text 1.2", "longest text, BERT", 512, lambda: BACKBONES[TEXT].input.longest),
    Published("spec text 1.2", "longest text, T5", 512, lambda: BACKBONES["t5-small"].input.longest),
]

EVALUATION = [
    *of_command(
        KnnSettings, {"k": 20, "normalize": True, "normalize_embeddings": True, "shots": None}, "spec vision 9.2"
    ),
    # None: the profile decides how few-shot rows are drawn.
    *of_command(KnnSettings, {"few_shot_sampling": None, "few_shot_seed": ()}, "spec vision 9.4"),
    *of_command(AblateSettings, {"k": 20, "seed": SEED}, "spec vision 9.2"),
    *of_command(InContextSettings, {"k": 20, "model": "gpt-4o-mini", "backbone": TEXT}, "spec text 5.1"),
    *of_command(
        LinearSettings, {"tolerance": 1e-3, "epochs": 300, "solver": "cyanure", "seed": SEED}, "spec vision 9.5"
    ),
    *of_command(LinearSettings, {"few_shot_validation": "published", "all_combinations": False}, "spec vision 9.5"),
    Published("spec vision 9.5", "epochs of ImageNet-1K", 30, lambda: LinearSettings(dataset="imagenet-1k").epochs),
    Published(
        "spec vision 9.5",
        "lambdas",
        [5e-6, 1.2875e-4, 2.525e-4, 3.7625e-4, 5e-4],
        lambda: [round(float(value), 12) for value in LAMBDAS],
    ),
    Published(
        "spec vision 9.5",
        "tolerance and passes",
        (1e-3, 300),
        lambda: (LogisticOptions().tolerance, LogisticOptions().max_epochs),
    ),
    *of_command(ClusterSettings, {"restarts": 10, "seed": SEED}, "spec vision 9.7"),
    *of_command(
        RetrievalSettings,
        {"cutoffs": (1, 5, 10), "renormalise_after_pca": False, "test_split": "test"},
        "spec vision 9.6",
    ),
    Published("spec vision 9.1", "PCA of a known backbone", 384, lambda: usual_pca_dim("cifar10", "vit-s16")),
    Published("spec vision 9.1", "PCA of an unknown backbone", 512, lambda: usual_pca_dim("cifar10", "somebody's")),
    Published("spec vision 9.1", "PCA", 512, lambda: DEFAULT_PCA_DIM),
    Published(
        "spec vision 9.1",
        "PCA by size",
        {"S": 384, "B": 512, "L": 512, "H": 512},
        lambda: {name: SIZES[name][2] for name in "SBLH"},
    ),
    *(
        Published("spec vision 9.6", f"PCA of {name}", 512, lambda n=name: usual_pca_dim(n, "vit-s16"))
        for name in ("oxford-landmarks", "paris-landmarks")
    ),
    *(
        Published("spec text 5, audio 5", f"PCA of {name}", 512, lambda n=name: BACKBONES[n].pca_dim)
        for name in (TEXT, "t5-small", AUDIO)
    ),
]

EXTRACTION = [
    *of_command(
        GradientSettings, {"seed": SEED, "objective": ("kl", "dino", "simclr"), "bias": True}, "spec vision 7.2"
    ),
    *of_command(
        GradientSettings, {"projection_kind": "binary", "profile": "clean", "projection_dim": 0}, "spec vision 6"
    ),
    Published(
        "spec vision 6",
        "projection",
        ("binary", SEED),
        lambda: (draw_projection(2, 3).kind, draw_projection(2, 3).seed),
    ),
    Published(
        "spec vision 10.4",
        "published profile",
        {True},
        lambda: {value for name, value in vars(PROFILES["published"]).items() if name != "name"},
    ),
    Published(
        "spec vision 10.4",
        "clean profile",
        {False},
        lambda: {value for name, value in vars(PROFILES["clean"]).items() if name != "name"},
    ),
]

PUBLISHED = [*VIEWS, *OBJECTIVES, *LIBRARY, *SOUNDS, *EVALUATION, *EXTRACTION]
