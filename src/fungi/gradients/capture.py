"""Record the inputs and outputs of the gradient sources, with hooks that are removed at the end of a `with` block.

The output of the first source becomes a leaf of the autograd graph. No parameter needs a gradient, so autograd records
nothing before this leaf. The model is not changed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.errors import FungiError
from fungi.gradients.attention import visible_output_projection
from fungi.gradients.targets import Target, candidates


class Capture:
    """Record the input and output of each target, in one forward pass or in several.

    Views of several sizes need a forward pass for each size. Call `begin` before each pass; without `begin` there is
    one pass.

    activation_modules: path of a target -> the module that provides its activations: they are the input of this module
        instead of the target's own input (see `Profile.attention_input`).
    """

    def __init__(
        self, model: nn.Module, targets: Sequence[Target], activation_modules: dict[str, nn.Module] | None = None
    ) -> None:
        self._model = model
        self._modules = {target.path: target.module for target in targets}
        self._activation_modules = activation_modules or {}
        parents = [model.get_submodule(path.rpartition(".")[0]) for path in self._modules]
        self._attentions = [parent for parent in parents if isinstance(parent, nn.MultiheadAttention)]
        self._stack = ExitStack()
        self.activations: dict[str, list[Tensor]] = {path: [] for path in self._modules}
        self.outputs: dict[str, list[Tensor]] = {path: [] for path in self._modules}
        self._passes = 0
        self._without_graph = False

    def __enter__(self) -> "Capture":
        self._stack.enter_context(visible_output_projection(self._attentions))
        for path, module in self._modules.items():
            self._attach(module.register_forward_hook, self._record_output(path))
            if path in self._activation_modules:
                self._attach(self._activation_modules[path].register_forward_pre_hook, self._record_input(path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self) -> None:
        """Announce the next forward pass."""
        self._passes += 1

    def signals(
        self, roots: Sequence[Float[Tensor, "..."]], weights: Sequence[Float[Tensor, "..."]], *, keep_graph: bool
    ) -> dict[str, list[Float[Tensor, "..."] | None]]:
        """Return the derivative of the sum of `root * weight` with respect to each target's output in each pass.

        The sum is over all roots. The derivative is None for a pass that the roots do not depend on. Raises FungiError
        for a target that a forward pass did not reach, and for a target that no root depends on.
        """
        for path, outputs in self.outputs.items():
            if len(outputs) < max(self._passes, 1):
                raise FungiError(
                    f"layer {path!r} was not used in the forward pass as a module; its gradient can't be seen. "
                    f"{candidates(self._model, path)}"
                )
        flat = [output for outputs in self.outputs.values() for output in outputs]
        derivatives: tuple[Tensor | None, ...] = (None,) * len(flat)
        learning = [(root, weight) for root, weight in zip(roots, weights, strict=True) if root.requires_grad]
        if learning:
            derivatives = torch.autograd.grad(
                [root for root, _ in learning],
                flat,
                grad_outputs=[weight for _, weight in learning],
                retain_graph=keep_graph,
                allow_unused=True,
            )
        remaining = iter(derivatives)
        signals = {path: [next(remaining) for _ in outputs] for path, outputs in self.outputs.items()}
        for path, of_passes in signals.items():
            if all(signal is None for signal in of_passes) and self._without_graph:
                raise FungiError(
                    f"the model computes layer {path!r} under torch.no_grad or torch.inference_mode, so no gradient "
                    "reaches the layer. Remove this from the model's forward."
                )
            if all(signal is None for signal in of_passes):
                raise FungiError(
                    f"layer {path!r} gets no gradient: the embedding does not depend on its output. "
                    f"{candidates(self._model, path)}"
                )
        return signals

    def _attach(self, register: Callable[..., Any], hook: Callable[..., Any]) -> None:
        self._stack.callback(register(hook).remove)

    def _record_output(self, path: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if len(self.outputs[path]) >= max(self._passes, 1):
                raise FungiError(
                    f"layer {path!r} is used several times in one forward pass (shared weights); choose another. "
                    f"{candidates(self._model, path)}"
                )
            if path not in self._activation_modules:
                self.activations[path].append(inputs[0].detach().clone())
            self._without_graph |= not torch.is_grad_enabled()
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            self.outputs[path].append(output)
            return output.clone()  # later layers may change their input in place

        return hook

    def _record_input(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.activations[path].append(inputs[0].detach().clone())

        return hook


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode (no dropout, running statistics in BatchNorm), without gradients of parameters.

    It sets the flag of each module itself, because `eval()` of some models does more (it merges adapters, for example).
    """
    _require_differentiable(model)
    training = [module for module in model.modules() if module.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)


def _require_differentiable(model: nn.Module) -> None:
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise FungiError(
            "the model was created inside torch.inference_mode(), so no gradient can pass through it. Create the model "
            "outside; calls may stay inside."
        )
