"""Record the inputs and outputs of the gradient sources with hooks that exist only inside a `with` block.

The output of the first source becomes a leaf of the autograd graph. No parameter needs a gradient, so autograd records
nothing before this layer. The model is unchanged afterwards.
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
    """Records the inputs and outputs of each target, in one forward pass or in several.

    Views of several sizes need one pass per size: call `begin` before each. A single pass does not need it.

    activation_modules: path of a target -> the module that provides the activations instead of the target itself (see
        `Profile.attention_input`).
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
        """Start the next forward pass."""
        self._passes += 1

    def signals(
        self, roots: Sequence[Float[Tensor, "..."]], weights: Sequence[Float[Tensor, "..."]], *, keep_graph: bool
    ) -> dict[str, list[Float[Tensor, "..."] | None]]:
        """Return the derivative of the sum of `root * weight` over all roots, per target and forward pass.

        The derivative with respect to the target's output is None if no root depends on that pass. Raises FungiError
        if a forward pass did not use a target, or if no root depends on its outputs.
        """
        for path, outputs in self.outputs.items():
            if len(outputs) < max(self._passes, 1):
                raise FungiError(
                    f"layer {path!r} was not called as a module in the forward pass, so it has no gradient here. "
                    f"{candidates(self._model, path)}"
                )
        flat = [output for outputs in self.outputs.values() for output in outputs]
        derivatives: tuple[Tensor | None, ...] = (None,) * len(flat)
        differentiable = [(root, weight) for root, weight in zip(roots, weights, strict=True) if root.requires_grad]
        if differentiable:
            derivatives = torch.autograd.grad(
                [root for root, _ in differentiable],
                flat,
                grad_outputs=[weight for _, weight in differentiable],
                retain_graph=keep_graph,
                allow_unused=True,
            )
        remaining = iter(derivatives)
        signals = {path: [next(remaining) for _ in outputs] for path, outputs in self.outputs.items()}
        for path, pass_signals in signals.items():
            if all(signal is None for signal in pass_signals) and self._without_graph:
                raise FungiError(
                    f"the model computes layer {path!r} under torch.no_grad or torch.inference_mode, so no "
                    "gradient reaches it. Remove this from the model's forward method."
                )
            if all(signal is None for signal in pass_signals):
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
    """Put the model in evaluation mode (no dropout, running statistics of BatchNorm), without parameter gradients.

    This sets the flag of each module instead of calling `eval()`, because `eval()` of some models does more (for
    example, it merges adapters).
    """
    _require_differentiable(model)
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


def _require_differentiable(model: nn.Module) -> None:
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise FungiError(
            "the model was created inside torch.inference_mode(), so no gradient can pass through it. Create the model "
            "outside. You can still call it inside."
        )
