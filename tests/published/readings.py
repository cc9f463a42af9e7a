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


def of_objective(objective: str, name: str, value: Any, source: str, **context: Any) -> Published:
    """Return a setting of an objective or of its views.

    context: `backbone` and `profile`, if they are not the defaults of `bound`.
    """

    def ours() -> Any:
        bound_objective = bound(objective, **context)
        has_setting = hasattr(bound_objective.objective, name)
        return getattr(bound_objective.objective if has_setting else bound_objective.views, name)

    label = ".".join([objective, *map(str, context.values()), name])
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


def augmentation(view: int) -> dict[str, Any]:
    """Return the parameters of DINO's full augmentation for a view, by the names of its steps."""
    steps = Crops(input=ImageInput(), augmentation="dino")._transform(view).transforms
    _crop, flip, colours, grey, blur, *solarisation = steps  # some views have no solarisation
    return {
        "flip": flip.p,
        "jitter": colours.p,
        "colours": jitter_strengths(colours),
        "grey": grey.p,
        "blur": blur.p,
        "solarize": solarisation[0].p if solarisation else 0.0,
    }


def jitter_strengths(random_jitter: v2.RandomApply) -> list[float]:
    """Return the strengths of a colour jitter: brightness, contrast, saturation, hue."""
    (step,) = random_jitter.transforms
    # A range reaches from its middle minus the strength to its middle plus the strength.
    ranges_and_middles = ((step.brightness, 1), (step.contrast, 1), (step.saturation, 1), (step.hue, 0))
    return [round(high - middle, 9) for (_low, high), middle in ranges_and_middles]


def crop_parameters(view: int, objective: str = "dino") -> dict[str, Any]:
    """Return the crop parameters of a view of an objective."""
    views: Any = bound(objective).views
    step = (views.crops if hasattr(views, "crops") else views)._transform(view)
    return {
        "area": tuple(step.scale),
        "aspect": tuple(step.ratio),
        "size": step.size[0],
        "interpolation": step.interpolation.value,
    }


def expected_crop(area: tuple[float, float], interpolation: str = "bicubic") -> dict[str, Any]:
    """Return the published parameters of a crop in the form of `crop_parameters`. area: share of the image."""
    return {"area": area, "aspect": (3 / 4, 4 / 3), "size": 224, "interpolation": interpolation}


def contrastive_step(index: int) -> Any:
    """Return a step of the transform of contrastive views: flip, crop, colour jitter, grey, blur."""
    return ContrastiveViews(input=ImageInput(), n_views=2).transform().transforms[index]
