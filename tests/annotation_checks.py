"""Checks of the annotations of `fungi` in tests: types and axes of the arguments and the result of every call.

The plugin of jaxtyping decorates every function with `jaxtyping.jaxtyped`, which prepares the checks at import. In each
call, `jaxtyped` checks all arguments twice, even if no annotation has axes. `checked` replaces `jaxtyped`: beartype
prepares the checks of a function at its first call, and sizes are recorded only if an annotation has axes.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import beartype

with_own_axes = functools.partial(jaxtyping.jaxtyped, "context")
"""Return a context manager in which the axes have no sizes yet."""


def checked(function: Any = None, **_options: Any) -> Any:
    """Replace `jaxtyping.jaxtyped`: return a function, or a dataclass, whose calls are checked."""
    if function is None:
        return checked
    if not isinstance(function, type):
        return _checked_function(function)
    if dataclasses.is_dataclass(function) and not hasattr(vars(function).get("__init__", checked), "__wrapped__"):
        function.__init__ = _checked_function(function.__init__)
    return function


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that checks its calls, unless `jaxtyping_disable` is set."""
    prepared: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal prepared
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if prepared is None:
            prepared = _with_checks(function)
        return prepared(*args, **kwargs)

    return call


def _with_checks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a function with the checks of beartype, in a context of its own if annotations have axes."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__, copy.__qualname__, copy.__module__ = (
        function.__kwdefaults__,
        function.__qualname__,
        function.__module__,
    )
    copy.__annotations__ = {
        name: _resolved(annotation, function.__globals__) for name, annotation in function.__annotations__.items()
    }
    checks = beartype(copy)
    if not any(map(_has_axes, copy.__annotations__.values())):
        return checks

    def call_with_own_axes(*args: Any, **kwargs: Any) -> Any:
        with with_own_axes():
            return checks(*args, **kwargs)

    return call_with_own_axes


def _resolved(annotation: Any, namespace: dict[str, Any]) -> Any:
    """Return an annotation without texts. Names that only exist for type checkers become Any."""
    holder = types.SimpleNamespace(__annotations__={"value": annotation})
    try:
        return typing.get_type_hints(holder, namespace, include_extras=True)["value"]
    except NameError:
        return Any


def _has_axes(annotation: Any) -> bool:
    """Return whether an annotation has axes, or contains an annotation that has axes."""
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list) else typing.get_args(annotation)
    return any(map(_has_axes, parts))
