"""The training step: forward passes, loss, centres, optimiser and teacher (spec udi 4, 5)."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fungi.errors import FungiError
from fungi.pretraining.processes import World
from fungi.pretraining.udi import optimisation
from fungi.pretraining.udi.centres import diversity, teacher_statistics, updated_centres, vector_sums
from fungi.pretraining.udi.choices import Coordinates, Optimizer
from fungi.pretraining.udi.losses import BatchCounts, LossOptions, Teacher, loss_parts, part_shares
from fungi.pretraining.udi.network import Alignment, Network, NetworkOptions, align, stochastic_depth
from fungi.pretraining.udi.views import ViewOptions, Views
from fungi.runtime.device import autocast
from fungi.runtime.seeds import seeded, torch_generator
from fungi.runtime.transfers import download, upload
from fungi.views.image import IMAGENET
from fungi.views.pixels import normalize


class NonFiniteError(FungiError):
    """The loss or a gradient of a step is not finite. The step does not change the weights."""


@dataclass(frozen=True, kw_only=True)
class StepSchedule:
    """The values of the schedules for one step.

    rate: learning rate. teacher_momentum: momentum of the teacher, a moving average. temperature: temperature of the
    teacher. last_layer_frozen: whether the step leaves the prototypes unchanged.
    """

    step: int
    rate: float
    weight_decay: float
    teacher_momentum: float
    temperature: float
    last_layer_frozen: bool = False


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """The options of all training steps.

    coordinates: positions of the tokens of a crop. drop_path: share of dropped branches in the last block (stochastic
    depth). clip: largest norm of the gradient of a tensor; 0 turns clipping off. center_momentum: momentum of the
    centres, which are moving averages. seed: seed of the weights and of stochastic depth.
    """

    network: NetworkOptions
    views: ViewOptions
    loss: LossOptions = field(default_factory=LossOptions)
    coordinates: Coordinates = "corner"
    optimizer: Optimizer = "adamw"
    drop_path: float = 0.1
    clip: float = 3.0
    center_momentum: float = 0.9
    seed: int = 0


@dataclass
class _Sums:
    """Sums over a batch, on the device. The processes exchange all sums in one message.

    vectors, counts: sum and number of the unit vectors of each level. parts: parts of the loss. entropy, predictions:
    statistics of the teacher. stop: number of processes that were asked to stop.
    """

    vectors: Tensor
    counts: Tensor
    parts: Tensor
    entropy: Tensor
    predictions: Tensor
    stop: Tensor

    def tensors(self) -> list[Float[Tensor, "..."]]:
        return list(vars(self).values())


@dataclass(frozen=True)
class Measurement:
    """Loss and statistics of a training step, while they are copied from the device.

    schedule: schedule of the step. shares: weight of each part of the loss. numbers: function that waits for the copy
    and returns the values, in the order of the names in `read`.
    """

    schedule: StepSchedule
    shares: dict[str, float]
    numbers: Callable[[], list[float]]

    def read(self) -> dict[str, float]:
        """Wait for the copy, and return the means over the full batch by name.

        The names are `loss`, its parts, `entropy` and `diversity` of the teacher, `gradient` (the largest norm), and
        `stop` (the number of processes that were asked to stop). Raises NonFiniteError if the loss or a gradient is not
        finite. In that case, this step and later steps do not change the weights.
        """
        names = (*self.shares, "entropy", "diversity", "gradient", "stop", "halted")
        values = dict(zip(names, self.numbers(), strict=True))
        loss = sum(share * values[name] for name, share in self.shares.items())
        if values.pop("halted"):
            raise NonFiniteError(
                f"step {self.schedule.step}: the loss is {loss} and the largest gradient norm is {values['gradient']}. "
                "The step did not change the weights. The last checkpoint is good. Try a lower --lr or --dtype float32."
            )
        return values | {"loss": loss}


class Learner:
    """Student, teacher, centres and optimiser. `launch` trains on a batch, and updates all four."""

    def __init__(self, options: LearnerOptions, world: World, device: torch.device, dtype: torch.dtype) -> None:
        self.options, self.world, self.device, self.dtype = options, world, device, dtype
        with seeded(options.seed, "udi", "weights"):
            student = Network(options.network)
        if options.network.batch_norm and world.size > 1:
            if device.type != "cuda":
                raise FungiError(
                    "--use-bn-in-head with several processes needs GPUs. Use one process, or remove the flag."
                )
            student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
        self.student: Network = student.to(device)
        self.teacher: Network = copy.deepcopy(self.student).requires_grad_(False)
        self.centres = torch.zeros(options.network.levels, options.network.prototypes, device=device)
        self.optimizer = optimisation.build_optimizer(options.optimizer, self.student)
        self.tensors = optimisation.published_tensors(self.student)
        """Groups of parameters whose gradients are clipped together."""
        self.parallel = world.shared(self.student)
        self.active = active_parts(options.network, options.views.local_crops)
        self.halted = torch.zeros((), device=device)
        """1 after the first step with a loss or gradient that is not finite, otherwise 0. With 1, steps do not change
        student, teacher and centres."""

    def step(self, batch: list[Views], schedule: StepSchedule, *, stop: bool = False) -> dict[str, float]:
        """Train on one batch and return its loss and statistics (`Measurement.read`)."""
        return self.launch(batch, schedule, stop=stop).read()

    def launch(self, batch: list[Views], schedule: StepSchedule, *, stop: bool = False) -> Measurement:
        """Start the training step of a batch, without waiting for a GPU.

        batch: the parts of this process, on the host. stop: whether this process was asked to stop. To keep a GPU busy,
        read the result after the next step is launched.
        """
        options = self.options.views
        alignments = [
            align(views, options.global_side, options.local_side, self.options.coordinates, self.device)
            for views in batch
        ]
        counts = self._counts(batch, alignments)
        sums = self._empty_sums(stop)
        self.optimizer.zero_grad(set_to_none=True)
        for index, (views, alignment) in enumerate(zip(batch, alignments, strict=True)):
            # Several processes exchange their gradients only after the last part.
            sums_without_exchange = self.world.size > 1 and index < len(batch) - 1
            with self.parallel.no_sync() if sums_without_exchange else nullcontext():
                depth_factors = self._depth_factors(schedule.step, len(views), index, len(batch))
                self._learn_part(views, alignment, schedule, counts, sums, depth_factors)
        measurement = self._clip_and_update_centres(sums, schedule, counts)
        optimisation.set_rates(self.optimizer, schedule.rate, schedule.weight_decay)
        if schedule.last_layer_frozen:
            optimisation.drop_last_layer_gradients(self.student)
        self.optimizer.found_inf = self.halted  # type: ignore[attr-defined]  # fused optimisers read it on the device
        self.optimizer.step()
        optimisation.update_teacher(self.teacher, self.student, schedule.teacher_momentum, self.halted)
        return measurement

    def _learn_part(
        self,
        views: Views,
        alignment: Alignment,
        schedule: StepSchedule,
        counts: BatchCounts,
        sums: _Sums,
        depth_factors: Float[Tensor, "blocks2 v b"] | None,
    ) -> None:
        """Add the gradients of a part of the batch to the student, and the sums of the part to `sums`.

        counts: numbers of images and samples in the batch of all processes. depth_factors: factors of stochastic depth
        for the part; None to compute all branches.
        """
        images, crops = (_normalized(upload(pixels, self.device)) for pixels in (views.globals, views.locals))
        has_patch_level = self.options.network.has_patch_level
        with torch.no_grad(), autocast(self.device, self.dtype):
            predictions = self.teacher(images, crops[:0], alignment.target if has_patch_level else None)
        teacher = Teacher(predictions, alignment, self.centres, schedule.temperature, len(crops))
        with autocast(self.device, self.dtype):
            student = self.parallel(images, crops, alignment.source if has_patch_level else None, depth_factors)
        loss, parts = loss_parts(student, teacher, counts, self.options.loss)
        (loss * self.world.size).backward()
        with torch.no_grad():
            vectors, count = vector_sums(teacher, self.options.loss)
            entropy, prediction_sum = teacher_statistics(teacher)
        sums.vectors += vectors
        sums.counts += count
        sums.entropy += entropy
        sums.predictions += prediction_sum
        sums.parts += torch.stack([parts[name] for name in self.active])

    @torch.no_grad()
    def _clip_and_update_centres(self, sums: _Sums, schedule: StepSchedule, counts: BatchCounts) -> Measurement:
        """Clip gradients, update centres, and start to copy the numbers of the batch to the host."""
        process_means = self.options.views.deviations.process_means
        if process_means:  # the means of all processes have equal weights
            sums.vectors /= sums.counts.clamp_min(1)[:, None] * self.world.size
        total = self._sum_over_processes(sums)
        largest_norm = optimisation.clip_each(self.tensors, self.options.clip)
        is_finite = torch.isfinite(largest_norm) & torch.isfinite(total.parts).all()
        self.halted = torch.maximum(self.halted, (~is_finite).float())
        means = total.vectors
        if not process_means:
            means = means / total.counts.clamp_min(1)[:, None]
        new_centres = updated_centres(
            self.centres, means, total.counts, self.teacher.prototypes, momentum=self.options.center_momentum
        )
        self.centres = torch.where(self.halted > 0, self.centres, new_centres)
        global_views = 2 * counts.images
        entropy = total.entropy / global_views
        teacher_diversity = diversity(entropy, total.predictions / global_views)
        statistics = torch.stack([entropy, teacher_diversity, largest_norm, total.stop, self.halted])
        numbers = torch.cat([total.parts, statistics])
        return Measurement(schedule, part_shares(self.active, self.options.views.local_crops), download(numbers))

    def _sum_over_processes(self, sums: _Sums) -> _Sums:
        """Return the sums over the batches of all processes. All tensors travel in one flat tensor."""
        tensors = sums.tensors()
        flat = self.world.summed(torch.cat([values.reshape(-1) for values in tensors]))
        parts = flat.split([values.numel() for values in tensors])
        return _Sums(*(part.view_as(values) for part, values in zip(parts, tensors, strict=True)))

    def _counts(self, batch: list[Views], alignments: list[Alignment]) -> BatchCounts:
        """Return the numbers of images and of valid patch samples, in the batches of all processes."""
        samples = alignments[0].source.shape[2]
        patches = torch.stack([alignment.valid[:, :, :samples].sum() for alignment in alignments]).sum().double()
        if self.options.views.deviations.process_means:
            patches = patches.clamp_min(1) * self.world.size
        else:
            patches = self.world.summed(patches)
        return BatchCounts(sum(map(len, batch)) * self.world.size, patches.float())

    def _depth_factors(self, step: int, images: int, index: int, parts: int) -> Float[Tensor, "blocks2 v b"] | None:
        """Return the factors of stochastic depth for one part of this process.

        images: number of images in the part. index, parts: index of the part, and number of parts per process.

        The factors are drawn for the batch of all processes, so they do not depend on the number of processes.
        """
        factors = stochastic_depth(
            self.options.drop_path,
            self.options.network.architecture.depth,
            self.options.views.local_crops + 2,
            images * parts * self.world.size,
            torch_generator(self.options.seed, "drop path", step),
        )
        start = (self.world.rank * parts + index) * images
        return factors if factors is None else factors[:, :, start : start + images]

    def _empty_sums(self, stop: bool) -> _Sums:
        """Return sums of 0, except `stop`: 1 if this process was asked to stop."""
        network = self.options.network

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=self.device)

        levels = network.levels
        return _Sums(
            zeros(levels, network.bottleneck),
            zeros(levels),
            zeros(len(self.active)),
            zeros(),
            zeros(network.prototypes),
            zeros() + float(stop),
        )


def active_parts(network: NetworkOptions, local_crops: int) -> list[str]:
    """Return the names of the parts of the loss that these options use. `loss_parts` explains the names.

    local_crops: number of local crops.
    """
    kinds = ["cl", "mcl"][: network.class_tokens]
    origins = ["g", "l"] if local_crops else ["g"]
    class_parts = [f"{origin}_{kind}" for kind in kinds for origin in origins]
    return [*class_parts, *(["g_pch"] if network.has_patch_level else [])]


def _normalized(pixels: UInt8[Tensor, "v b 3 s s"]) -> Float[Tensor, "v b 3 s s"]:
    """Return views with the mean and standard deviation that networks for ImageNet expect."""
    return normalize(pixels.flatten(0, 1), IMAGENET).unflatten(0, pixels.shape[:2])
