"""Registries map names to entries (datasets, backbones, objectives). A new entry is a new file in the package.

There are two ways to discover entries:

* eager: the first look-up imports every module of the package, and each module registers its entries. This is for
  packages whose modules import quickly (datasets, backbones);
* lazy: the file name of a module is the name of its entry, so that names are known without imports. This is for
  packages that import torch (objectives).
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Generic, ParamSpec, TypeVar

from fungi.errors import unknown_name

Entry = TypeVar("Entry")
Arguments = ParamSpec("Arguments")


class Registry(Generic[Entry]):
    """Named entries of one kind, discovered in `package`.

    kind: word for an entry in messages.
    lazy: whether file names are the names of the entries (see the docstring of the module).
    common: modules without entries. Modules whose names start with an underscore have no entries either.
    own: `module:function` of the function that creates an entry for a user's own data or model, from a description
        such as `NAME=folder:PATH`. The function is imported at its first use.
    """

    def __init__(
        self, kind: str, package: str, *, lazy: bool = False, common: tuple[str, ...] = ("base",), own: str = ""
    ) -> None:
        self.kind = kind
        self._own = own
        self._package = package
        self._lazy = lazy
        self._common = common
        self._entries: dict[str, Entry] = {}
        self._discovered = False

    def register(self, name: str, entry: Entry) -> Entry:
        """Add an entry and return it. Each name can be registered only once."""
        assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
        self._entries[name] = entry
        return entry

    def registering(self, create: Callable[Arguments, Entry]) -> Callable[Arguments, Entry]:
        """Return a function that calls `create` and registers the new entry under its attribute `name`."""

        def create_and_register(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Entry:
            entry: Any = create(*args, **kwargs)
            return self.register(entry.name, entry)

        return create_and_register

    def names(self) -> list[str]:
        """Return all names, sorted."""
        if self._lazy:
            return sorted({_name_of(module) for module in self._modules()} | set(self._entries))
        self._discover()
        return sorted(self._entries)

    def __getitem__(self, name: str) -> Entry:
        """Return the entry. Raises FungiError with the most similar names for an unknown name."""
        if name not in self._entries:
            self._discover(only=name)
        if name not in self._entries:
            raise unknown_name(self.kind, name, self.names())
        return self._entries[name]

    def own(self, description: str, *details: Any) -> Entry:
        """Return the entry for a user's description of own data or an own model.

        details: further arguments of the function that creates the entry. Raises FungiError for an invalid description.
        """
        module, _, function = self._own.partition(":")
        entry: Entry = getattr(importlib.import_module(module), function)(description, *details)
        return entry

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _modules(self) -> list[str]:
        """Return the names of the modules with entries."""
        folders = tuple(importlib.import_module(self._package).__path__)
        return [name for name in _modules_in(folders) if name not in self._common]

    def _discover(self, only: str | None = None) -> None:
        """Import the modules with entries; if the registry is lazy, import only the module of the entry `only`."""
        if self._discovered:
            return
        for module in self._modules():
            if not self._lazy or only is None or _name_of(module) == only:
                importlib.import_module(f"{self._package}.{module}")
        self._discovered = not self._lazy


@cache
def _modules_in(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the public modules in folders; cached, because a grid asks thousands of times."""
    return tuple(module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_"))


def _name_of(module: str) -> str:
    """Return the name of the entry in a module of a lazy registry."""
    return module.replace("_", "-")
