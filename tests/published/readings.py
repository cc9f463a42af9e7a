"""Functions that read the settings of the program, to compare them with the published settings."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

from torchvision.transforms import v2

from fungi import config
from fungi.backbones.base import BACKBONES
from fungi.backbones.loading import choose_input
from fungi.objectives.binding import BoundObjective, bind
from fungi.profiles import PROFILES
from fungi.views.crops import Crops
from fungi.views.image import ImageInput
from fungi.views.random_views import ContrastiveViews


class Published(NamedTuple):
    """A setting: its source, its name, its published value, and a function that returns the default of the program."""

    source: str
    name: str
    value: Any
    ours: Callable[[], Any]


def bound(objective: str, backbone: str = "vit-b16", profile: str = "clean", **options: Any) -> BoundObjective:
    """Return an objective with the input of a backbone, as in the stages."""
    input_spec = choose_input(BACKBONES[backbone], PROFILES[profile])
    return bind(objective, embedding_dim=8, input_spec=input_spec, seed=42, options=options)


def of_objective(objective: str, name: str, value: Any, source: str, **where: Any) -> Published:
    """Return a setting of an objective or of its views."""

    def ours() -> Any:
        chosen = bound(objective, **where)
        return getattr(chosen.objective if hasattr(chosen.objective, name) else chosen.views, name)

    label = ".".join([objective, *map(str, where.values()), name])
    return Published(source, label, value, ours)


def of_config(kind: str, values: dict[str, Any], source: str) -> list[Published]:
    """Return settings of a configuration of the library."""
    defaults = {field.name: field.default for field in fields(getattr(config, kind))}
    return [Published(source, f"{kind}.{name}", value, lambda n=name: defaults[n]) for name, value in values.items()]


def of_command(kind: type, values: dict[str, Any], source: str) -> list[Published]:
    """Return defaults of the flags of a command."""
    return [
        Published(source, f"{kind.__name__}.{name}", value, lambda n=name: getattr(kind(), n))
        for name, value in values.items()
    ]


def recipe(view: int) -> dict[str, Any]:
    """Return the parameters of DINO's full augmentation for a view, by the names of its steps."""
    steps = Crops(input=ImageInput(), augmentation="dino")._transform(view).transforms
    settings: dict[str, Any] = {"blur": steps[4].p, "solarize": steps[5].p if len(steps) > 5 else 0.0}
    return settings | {"flip": steps[1].p, "jitter": steps[2].p, "grey": steps[3].p, "colours": jitter(steps[2])}


def jitter(applied: v2.RandomApply) -> list[float]:
    """Return the strengths of a colour jitter: brightness, contrast, saturation, hue."""
    (step,) = applied.transforms
    return [round(pair[1] - middle, 9) for pair, middle in zip(strengths(step), (1, 1, 1, 0), strict=True)]


def strengths(step: v2.ColorJitter) -> list[tuple[float, float]]:
    return [step.brightness, step.contrast, step.saturation, step.hue]


def cropped(view: int, objective: str = "dino") -> dict[str, Any]:
    """Return the crop parameters of a view of an objective."""
    views: Any = bound(objective).views
    step = (views.crops if hasattr(views, "crops") else views)._transform(view)
    return {
        "area": tuple(step.scale),
        "aspect": tuple(step.ratio),
        "size": step.size[0],
        "by": step.interpolation.value,
    }


def contrastive(place: int) -> Any:
    return ContrastiveViews(input=ImageInput(), n_views=2).transform().transforms[place]


def crop_of(area: tuple[float, float], by: str = "bicubic") -> dict[str, Any]:
    return {"area": area, "aspect": (3 / 4, 4 / 3), "size": 224, "by": by}
