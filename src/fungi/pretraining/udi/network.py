"""The network of student and teacher: a vision transformer with two class tokens, an SRS layer, a head (spec udi 1).

Modules have the names of the published checkpoints: `backbone.backbone`, `backbone.norm1`, `backbone.attn`, and
`head.0`, `head.1`, `head.2` (one head, saved three times). timm's register token is the second row of the published
class token.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from fungi.pretraining.tokens import embed, run_blocks
from fungi.pretraining.udi.choices import Architecture, Coordinates
from fungi.pretraining.udi.layers import EPSILON, Head, SampledAttention
from fungi.pretraining.udi.sampling import (
    one_hot_map,
    strictly_inside,
    target_map,
    token_positions,
    units_per_pixel,
)
from fungi.pretraining.udi.views import Views
from fungi.runtime.transfers import upload

INITIAL_STD = 0.02
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The options of student and teacher.

    has_patch_level: whether there are losses of patches. prototypes: number of prototypes.
    hidden, bottleneck: widths of the layers in the head.
    trained_length: whether the norms of the prototypes are trained.
    xavier: whether linear layers are initialised with Xavier.
    """

    architecture: Architecture
    image_size: int = 224
    patch_size: int = 16
    class_tokens: int = 2
    has_patch_level: bool = True
    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    batch_norm: bool = False
    trained_length: bool = False
    xavier: bool = False

    @property
    def levels(self) -> int:
        """The number of levels: one per class token, and one for patches."""
        return self.class_tokens + int(self.has_patch_level)


@dataclass(frozen=True)
class Alignment:
    """Maps between the samples of the views of a batch and the tokens of its global views (spec udi 2.4).

    A request is a position in a global view at which another view has a sample. The first m requests come from the
    other global view, the further requests from all local crops.

    source: one-hot maps of the samples of each global view. target: maps of the requests to the grid of each global
    view. valid: whether a request is inside the global view. shared_samples: the samples of the global views that are
    also inside the other global view, as indices of the 2*b*m samples.
    """

    source: Float[Tensor, "2 b m n"]
    target: Float[Tensor, "2 b requests n"]
    valid: Bool[Tensor, "2 b requests"]
    shared_samples: Int64[Tensor, " rows"]


@dataclass(frozen=True)
class Predictions:
    """The unit vectors f of the head. The logits are `prototypes @ f`. The teacher has no vectors of local crops.

    classes, local_classes: vectors of the class tokens of global views and of local crops. patches: vectors of the
    sampled patches of global views.

    Axes: R class tokens, L local crops, m samples of a view.
    """

    classes: Float[Tensor, "R 2 b w"]
    local_classes: Float[Tensor, "R L b w"]
    patches: Float[Tensor, "2 b m w"]
    prototypes: Float[Tensor, "k w"]


class Encoder(nn.Module):
    """The transformer and the SRS layer."""

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__()
        architecture = options.architecture
        self.backbone = architecture.build(
            image_size=options.image_size, patch_size=options.patch_size, class_tokens=options.class_tokens
        )
        if options.has_patch_level:
            self.norm1 = nn.LayerNorm(architecture.width, eps=EPSILON)
            self.attn = SampledAttention(architecture.width, architecture.heads)

    def classes(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "R n d"]:
        """Return the class tokens after the final norm."""
        model = self.backbone
        return model.norm(tokens[:, : model.num_prefix_tokens]).transpose(0, 1)

    def samples(self, tokens: Float[Tensor, "n t d"], sampling: Float[Tensor, "n m p"]) -> Float[Tensor, "n m d"]:
        """Return sampled patches after attention to their view."""
        return self.attn(self.norm1(tokens[:, self.backbone.num_prefix_tokens :]), sampling)


class Network(nn.Module):
    """Encoder and head. The student is trained. The teacher is the moving average of the student."""

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__()
        self.options = options
        self.backbone = Encoder(options)
        head = Head(
            options.architecture.width,
            options.prototypes,
            hidden=options.hidden,
            bottleneck=options.bottleneck,
            batch_norm=options.batch_norm,
            trained_length=options.trained_length,
        )
        self.head = nn.ModuleList([head] * options.levels)
        initialise(self, xavier=options.xavier)

    def forward(
        self,
        images: Float[Tensor, "2 b 3 g g"],
        crops: Float[Tensor, "L b 3 l l"],
        sampling: Float[Tensor, "2 b m n"] | None,
        depth_factors: Float[Tensor, "blocks2 v b"] | None = None,
    ) -> Predictions:
        """Return predictions for global views, local crops, and samples of the global views.

        images, crops: global views and local crops. depth_factors: factors of stochastic depth for each branch, view
        and image (spec udi 1.1); None to compute all branches.
        """
        count, batch = len(crops), images.shape[1]
        tokens = self._tokens(images, depth_factors[:, :2] if depth_factors is not None else None)
        parts = [self.backbone.classes(tokens).flatten(0, 1)]  # [R*2*b d]
        if count:
            local = self._tokens(crops, depth_factors[:, 2:] if depth_factors is not None else None)
            parts.append(self.backbone.classes(local).flatten(0, 1))
        if sampling is not None:
            parts.append(self.backbone.samples(tokens, sampling.flatten(0, 1)).flatten(0, 1))
        else:
            parts.append(parts[0][:0])  # no samples
        vectors = self.head[0](torch.cat(parts))
        sizes = [self.options.class_tokens * n * batch for n in (2, count)]
        classes, local_classes, patches = vectors.split([*sizes, len(vectors) - sum(sizes)])
        return Predictions(
            classes.unflatten(0, (self.options.class_tokens, 2, batch)),
            local_classes.reshape(self.options.class_tokens, count, batch, vectors.shape[-1]),
            patches.reshape(2, batch, len(patches) // (2 * batch), vectors.shape[-1]),
            self.prototypes,
        )

    @property
    def prototypes(self) -> Float[Tensor, "k w"]:
        """Return the weight W of the last layer."""
        weight = self.head[0].get_submodule("last_layer").weight
        assert isinstance(weight, Tensor)
        return weight

    def _tokens(
        self, images: Float[Tensor, "v b 3 s s"], depth_factors: Float[Tensor, "blocks2 v b"] | None
    ) -> Float[Tensor, "n t d"]:
        """Return the tokens of v views of b images after the last block, with n = v * b."""
        model = self.backbone.backbone
        tokens = embed(model, images.flatten(0, 1))
        return run_blocks(model, tokens, depth_factors.flatten(1) if depth_factors is not None else None)


@dataclass(frozen=True)
class Requests:
    """The requests of all views, on the host. `Alignment` explains requests, `valid` and `shared_samples`.

    positions: positions of the requests in the image, in units of 1/`units` of a pixel.
    """

    positions: Int64[Tensor, "2 b requests 2"]
    units: int
    valid: Bool[Tensor, "2 b requests"]
    shared_samples: Int64[Tensor, " rows"]


def requests_between(views: Views, global_side: int, local_side: int, coordinates: Coordinates) -> Requests:
    """Return the requests of all views.

    The requests are computed on the host, because the host needs the number of valid samples and would have to wait for
    a number from a GPU.
    """
    boxes = views.boxes
    units = units_per_pixel([global_side, local_side] if len(boxes) > 2 else [global_side], coordinates)
    sampled = [token_positions(views.global_tokens, global_side, boxes[view], units, coordinates) for view in (0, 1)]
    local = [token_positions(views.local_tokens, local_side, box, units, coordinates) for box in boxes[2:]]
    positions = torch.stack([torch.cat([sampled[1 - view], *local], dim=1) for view in (0, 1)])
    valid = torch.stack([strictly_inside(positions[view], boxes[view], units) for view in (0, 1)])
    shared_samples = valid[:, :, : sampled[0].shape[1]].flip(0).flatten().nonzero().flatten()
    return Requests(positions, units, valid, shared_samples)


def align(
    views: Views,
    global_side: int,
    local_side: int,
    coordinates: Coordinates = "corner",
    device: torch.device = CPU,
) -> Alignment:
    """Return the maps of a batch on a device. The views are on the host.

    global_side, local_side: number of tokens along a side of a global view and of a local crop.
    """
    requests = requests_between(views, global_side, local_side, coordinates)
    tokens, boxes = upload(views.global_tokens, device), upload(views.boxes, device)
    positions = upload(requests.positions, device)
    target = [target_map(positions[view], boxes[view], global_side, requests.units, coordinates) for view in (0, 1)]
    source = one_hot_map(tokens, global_side**2).expand(2, -1, -1, -1)
    valid, shared_samples = upload(requests.valid, device), upload(requests.shared_samples, device)
    return Alignment(source, torch.stack(target), valid, shared_samples)


def initialise(network: nn.Module, *, xavier: bool) -> None:
    """Initialise all weights in place.

    Linear layers: Xavier (for narrow networks), otherwise truncated normal with standard deviation 0.02. Tokens and
    position embeddings: truncated normal with standard deviation 0.02.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            if xavier:
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            module.reset_parameters()
    for name, parameter in network.named_parameters():
        if name.endswith(("cls_token", "reg_token", "pos_embed")):
            nn.init.trunc_normal_(parameter, std=INITIAL_STD)


def stochastic_depth(
    rate: float, depth: int, crops: int, images: int, generator: torch.Generator
) -> Float[Tensor, "blocks2 v b"] | None:
    """Return the factor of each branch: 0 if it is dropped, otherwise 1 / (1 - p) (spec udi 1.1).

    depth: number of blocks. crops, images: numbers of views of an image and of images in the batch of all processes.

    p is the probability to drop a branch. p grows linearly from 0 in the first block to `rate` in the last block.
    Return None if `rate` is 0.
    """
    if not rate:
        return None
    keep = 1 - torch.linspace(0, rate, depth).repeat_interleave(2)[:, None, None]
    draws = torch.rand(2 * depth, crops, images, generator=generator)
    return (draws < keep) / keep
