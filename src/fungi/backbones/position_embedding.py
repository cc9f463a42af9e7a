"""Scale learned position embeddings to another resolution, as the publisher of the weights does.

DINO and DINOv2 are scaled as in their torch hub code, models of torchvision as in torchvision, and other models as in
timm. Models without learned positions (rotary embeddings, convolutions) need no scaling.
"""

from copy import copy, deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.errors import FungiError

OFFSET = 0.1
"""The hub code of DINO and DINOv2 adds this to the size of the new grid. Rounding then never loses a row of patches."""
HUB_WEIGHTS = ("fbaipublicfiles.com/dino/", "fbaipublicfiles.com/dinov2/")
"""Parts of the URLs in timm's records of the weights of DINO and DINOv2."""
VIEWS_ADVICE = "Use --views published (views='published' in the library)."
"""Last sentence of the error for a model that takes images of only one size."""


def hub_positions(
    positions: Float[Tensor, "1 old d"], *, grid: int | tuple[int, int], antialias: bool = False, prefix: int = 1
) -> Float[Tensor, "1 new d"]:
    """Scale a position embedding to another grid of patches as the hub code of DINOv2 does.

    grid: side of the new grid, or (rows, columns). An embedding that already has this grid is returned unchanged.
    antialias: scale with antialiasing, as the hub does for models with registers. Other models are scaled without
        antialiasing, but with `OFFSET`.
    prefix: number of class tokens. They come first and keep their positions.
    """
    shape = (grid, grid) if isinstance(grid, int) else grid
    side = round((positions.shape[1] - prefix) ** 0.5)
    if shape == (side, side):
        return positions
    class_tokens, patches = positions[:, :prefix], positions[:, prefix:]
    patches = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1 side*side d] -> [1 d side side]
    scale = tuple((length + OFFSET) / side for length in shape)
    new_size: dict[str, Any] = {"size": shape} if antialias else {"scale_factor": scale}
    patches = torch.nn.functional.interpolate(patches.float(), mode="bicubic", antialias=antialias, **new_size)
    assert patches.shape[-2:] == shape
    flat = patches.flatten(2).transpose(1, 2).to(class_tokens.dtype)
    return torch.cat([class_tokens, flat], dim=1)  # -> [1 prefix+new d]


def scaling_of(model: nn.Module) -> str:
    """Return the method that scales the positions: `hub`, `hub, antialiased`, `timm`, `torchvision`, or `none`.

    For a model of timm, the attribute `position_scaling` sets the method (`hub` or `timm`). Without this attribute, the
    method depends on timm's record of the weights.
    """
    vit = _find_transformer(model)[1]
    if vit is None:
        return "none"
    if _is_torchvision(vit):
        return "torchvision"
    if vit.pos_embed is None:
        return "none"
    url = (getattr(vit, "pretrained_cfg", None) or {}).get("url") or ""
    scaling_of_weights = "hub" if any(part in url for part in HUB_WEIGHTS) else "timm"
    scaling = getattr(vit, "position_scaling", scaling_of_weights)
    # In the models of DINOv2 with registers, only patches have positions.
    has_registers = vit.no_embed_class and getattr(vit, "reg_token", None) is not None
    return "hub, antialiased" if scaling == "hub" and has_registers else scaling


def patch_size_of(model: nn.Module) -> int:
    """Return the patch size in pixels; 1 for models without patches. View sizes have to be multiples of this size."""
    vit = _find_transformer(model)[1]
    return 1 if vit is None else _patch_size(vit)


def set_size(vit: Any, size: int) -> None:
    """Change a vision transformer of timm in place, so that it takes images of `size` x `size`.

    The positions of class tokens and registers, if they have any, do not change. Rotary positions are computed for the
    new grid.
    """
    old_positions, old_grid, scaling = vit.pos_embed, vit.patch_embed.grid_size[0], scaling_of(vit)
    vit.set_input_size(img_size=(size, size))
    if scaling.startswith("hub"):
        new_grid = vit.patch_embed.grid_size[0]
        prefix = old_positions.shape[1] - old_grid**2  # number of class tokens and registers that have positions
        antialias = scaling == "hub, antialiased"
        positions = hub_positions(old_positions.detach(), grid=new_grid, antialias=antialias, prefix=prefix)
        vit.pos_embed = nn.Parameter(positions, requires_grad=False)


@torch.no_grad()
def at_size(model: nn.Module, size: int) -> nn.Module:
    """Return a copy of the model for images of `size` x `size` pixels; the model itself if it already takes this size.

    The copy and the original share all layers except the position embeddings, so hooks on the shared layers are also
    called for the copy. The original does not change. Raises FungiError for a size that is not a multiple of the patch
    size, and for a model that takes images of only one size.
    """
    path, vit = _find_transformer(model)
    if vit is None:
        _check_size(model, size)
        return model
    patch_size = _patch_size(vit)
    if size % patch_size:
        smaller, larger = size // patch_size * patch_size, (size // patch_size + 1) * patch_size
        raise FungiError(
            f"a size of {size} pixels is not a multiple of the model's patch size, {patch_size} pixels. Choose "
            f"{smaller or patch_size} or {larger} pixels."
        )
    if size == _native_size(vit):
        return model
    resized = _torchvision_at_size(vit, size) if _is_torchvision(vit) else _timm_at_size(vit, size)
    return _with_module(model, path.split(".") if path else [], resized)


def positions_version(model: nn.Module) -> tuple[int, int]:
    """Return two numbers that change whenever the learned positions of the model change.

    Copies of the model for other sizes, which `at_size` returned before the change, are then out of date.
    """
    vit = _find_transformer(model)[1]
    if vit is None:
        return 0, 0
    positions = vit.encoder.pos_embedding if _is_torchvision(vit) else vit.pos_embed
    return (0, 0) if positions is None else (id(positions), positions._version)


def _find_transformer(model: nn.Module) -> tuple[str, Any]:
    """Return (path, module) of the vision transformer inside a model; (empty, None) if there is none."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from torchvision.models import VisionTransformer as TorchvisionTransformer

    for path, module in model.named_modules():
        if isinstance(module, VisionTransformer | Eva | TorchvisionTransformer):
            return path, module
    return "", None


def _is_torchvision(vit: Any) -> bool:
    return not hasattr(vit, "patch_embed")


def _patch_size(vit: Any) -> int:
    return int(vit.patch_size if _is_torchvision(vit) else vit.patch_embed.patch_size[0])


def _native_size(vit: Any) -> int | None:
    """Return the side in pixels of the images that a transformer takes; None if it takes all sizes."""
    if _is_torchvision(vit):
        return int(vit.image_size)
    size = vit.patch_embed.img_size
    return None if size is None else int(size[0])


def _timm_at_size(vit: Any, size: int) -> nn.Module:
    """Return a copy of a vision transformer of timm for images of another size. The original does not change."""
    resized = shallow_copy(vit)
    resized._modules["patch_embed"] = shallow_copy(vit.patch_embed)
    if getattr(vit, "rope", None) is not None:
        resized._modules["rope"] = deepcopy(vit.rope)
    set_size(resized, size)
    return resized


def _torchvision_at_size(vit: Any, size: int) -> nn.Module:
    """Return a copy of a vision transformer of torchvision for images of another size. The original does not change."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    resized, encoder = shallow_copy(vit), shallow_copy(vit.encoder)
    key = "encoder.pos_embedding"
    state: Any = {key: vit.encoder.pos_embedding.detach()}
    positions = interpolate_embeddings(size, vit.patch_size, state)[key]
    encoder.pos_embedding = nn.Parameter(positions, requires_grad=False)
    resized._modules["encoder"] = encoder
    resized.image_size, resized.seq_length = size, positions.shape[1]
    return resized


def _with_module(model: nn.Module, path: list[str], module: nn.Module) -> nn.Module:
    """Return a copy of the model with another module at a path. All modules that are not on the path are shared."""
    if not path:
        return module
    duplicate = shallow_copy(model)
    duplicate._modules[path[0]] = _with_module(model.get_submodule(path[0]), path[1:], module)
    return duplicate


def shallow_copy(module: nn.Module) -> Any:
    """Return a copy with the same children and parameters.

    If a child or parameter of the copy is replaced, the original does not change.
    """
    duplicate = copy(module)
    duplicate._modules, duplicate._parameters = dict(module._modules), dict(module._parameters)
    return duplicate


def _check_size(model: nn.Module, size: int) -> None:
    """Run the model on a black image of `size` x `size`. Raises FungiError if the model cannot process this size."""
    parameter = next(model.parameters())
    modules_in_training = [module for module in model.modules() if module.training]
    try:
        for module in modules_in_training:
            module.training = False
        model(torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise FungiError(
            f"a {type(model).__name__} takes images of its own size only, not of {size} pixels ({reason}). "
            + VIEWS_ADVICE
        ) from None
    finally:
        for module in modules_in_training:
            module.training = True
