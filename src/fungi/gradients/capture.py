"""Record the inputs and outputs of the gradient sources with hooks that exist only inside a `with` statement.

The output of the first source becomes a leaf of the autograd graph. No parameter needs a gradient, so autograd records
nothing before this layer. After the `with` statement, the model is unchanged.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.errors import FungiError
from fungi.gradients.attention import output_projection_as_module
from fungi.gradients.targets import Target, candidates


class Capture:
    """Record of the inputs (activations) and outputs of each target, in one or several forward passes.

    Views of several sizes need a forward pass per size. Call `begin` before each pass, if there is more than one.

    activation_modules: path of a target -> module whose inputs are recorded instead of the inputs of the target (see
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
        self._stack.enter_context(output_projection_as_module(self._attentions))
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
        """Return the derivative of a weighted sum with respect to the output of each target in each forward pass.

        The sum is the sum of `root * weight` over all roots (losses, or outputs of the encoder). The derivative is None
        if no root depends on the output of this pass.

        keep_graph: whether the autograd graph is needed again, for another loss.
        Raises FungiError if a forward pass did not use a target, or if no root depends on the outputs of a target.
        """
        for path, outputs in self.outputs.items():
            if len(outputs) < max(self._passes, 1):
                raise FungiError(
                    f"layer {path!r} was not called as a module in the forward pass, so it has no gradient here. "
                    f"{candidates(self._model, path)}"
                )
        all_outputs = [output for outputs in self.outputs.values() for output in outputs]
        derivatives: tuple[Tensor | None, ...] = (None,) * len(all_outputs)
        differentiable = [(root, weight) for root, weight in zip(roots, weights, strict=True) if root.requires_grad]
        if differentiable:
            derivatives = torch.autograd.grad(
                [root for root, _ in differentiable],
                all_outputs,
                grad_outputs=[weight for _, weight in differentiable],
                retain_graph=keep_graph,
                allow_unused=True,
            )
        remaining = iter(derivatives)
        signals = {path: [next(remaining) for _ in outputs] for path, outputs in self.outputs.items()}
        for path, pass_signals in signals.items():
            if all(signal is None for signal in pass_signals):
                raise FungiError(self._reason_without_gradient(path))
        return signals

    def _reason_without_gradient(self, path: str) -> str:
        """Return the text of the error for a target whose outputs have no effect on any root."""
        if self._without_graph:
            return (
                f"the model computes layer {path!r} under torch.no_grad or torch.inference_mode, so no gradient"
                " reaches it. Remove this from the model's forward method."
            )
        return (
            f"layer {path!r} gets no gradient: the embedding does not depend on its output. "
            f"{candidates(self._model, path)}"
        )

    def _attach(self, register: Callable[..., Any], hook: Callable[..., Any]) -> None:
        """Register a hook that is removed at the end of the `with` statement."""
        self._stack.callback(register(hook).remove)

    def _record_output(self, path: str) -> Callable[..., Tensor]:
        """Return a hook that records the output of a layer.

        The hook also records the input of the layer, unless `activation_modules` has another module for this.
        """

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
            return output.clone()  # the next layer may change its input in place

        return hook

    def _record_input(self, path: str) -> Callable[..., None]:
        """Return a hook that records the input of a module as the activations of a layer."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.activations[path].append(inputs[0].detach().clone())

        return hook


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Set the model to evaluation mode, and disable gradients of its parameters, during the `with` statement.

    Evaluation mode means no dropout, and running statistics of BatchNorm. The flag of each module is set, and `eval()`
    is not called, because `eval()` of some models does more (for example, it merges adapters).
    """
    _require_differentiable(model)
    modules_in_training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in modules_in_training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in modules_in_training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


def _require_differentiable(model: nn.Module) -> None:
    """Raise FungiError if the parameters were created in inference mode."""
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise FungiError(
            "the model was created inside torch.inference_mode(), so no gradient can pass through it. Create the model "
            "outside. You can still call it inside."
        )
