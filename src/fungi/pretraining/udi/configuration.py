"""Turn flags into the options of the learner and the schedules of every step."""

from fungi.pretraining.batch_plan import BatchPlan
from fungi.pretraining.schedules import cosine, linear_then_constant
from fungi.pretraining.udi.choices import DEVIATIONS, choose_architecture
from fungi.pretraining.udi.learner import LearnerOptions, StepSchedule
from fungi.pretraining.udi.losses import LossOptions
from fungi.pretraining.udi.network import NetworkOptions
from fungi.pretraining.udi.settings import PretrainSettings
from fungi.pretraining.udi.views import ViewOptions


def learner_options(settings: PretrainSettings) -> LearnerOptions:
    """Return the options of the learner from the settings."""
    return LearnerOptions(
        network=NetworkOptions(
            architecture=choose_architecture(settings.arch),
            image_size=settings.global_crops_size,
            patch_size=settings.patch_size,
            class_tokens=settings.number_cls_token,
            has_patch_level=settings.include_patch,
            prototypes=settings.out_dim,
            hidden=settings.head_hidden_dim,
            bottleneck=settings.head_bottleneck_dim,
            batch_norm=settings.use_bn_in_head,
            trained_length=not settings.norm_last_layer,
            xavier=settings.init == "xavier",
        ),
        views=ViewOptions(
            global_size=settings.global_crops_size,
            local_size=settings.local_crops_size,
            patch_size=settings.patch_size,
            global_window=settings.global_sampling_window_size,
            local_window=settings.local_sampling_window_size,
            local_crops=settings.local_crops_number,
            global_scale=_pair(settings.global_crops_scale),
            local_scale=_pair(settings.local_crops_scale),
            jitter=settings.color_jitter,  # type: ignore[arg-type]  # the settings check that there are four numbers
            blur_radius=_pair(settings.blur_radius),
            deviations=DEVIATIONS[settings.profile],
        ),
        loss=LossOptions(
            alpha=settings.alpha, student_temperature=settings.student_temp, target_mix=settings.target_mix
        ),
        coordinates=settings.coords,
        optimizer=settings.optimizer,
        drop_path=settings.drop_path_rate,
        clip=settings.clip_grad,
        center_momentum=settings.center_momentum,
        seed=settings.seed,
    )


def step_schedules(settings: PretrainSettings, plan: BatchPlan) -> list[StepSchedule]:
    """Return the schedule of every step of a run."""
    per_epoch = plan.steps_per_epoch
    steps = settings.epochs * per_epoch
    peak = settings.lr * plan.batch / 256
    rates = cosine(peak, settings.min_lr, steps, warmup=settings.warmup_epochs * per_epoch)
    weight_decays = cosine(settings.weight_decay, settings.weight_decay_end, steps)
    momenta = cosine(settings.momentum_teacher, 1.0, steps)
    temperatures = linear_then_constant(
        settings.warmup_teacher_temp,
        settings.teacher_temp,
        settings.epochs,
        warmup=settings.warmup_teacher_temp_epochs,
    )
    return [
        StepSchedule(
            step=step,
            rate=float(rates[step]),
            weight_decay=float(weight_decays[step]),
            teacher_momentum=float(momenta[step]),
            temperature=float(temperatures[step // per_epoch]),
            last_layer_frozen=step // per_epoch < settings.freeze_last_layer,
        )
        for step in range(steps)
    ]


def _pair(numbers: tuple[float, ...]) -> tuple[float, float]:
    return numbers[0], numbers[1]
