"""The version of the code and packages that computed a block. Numbers of two versions may not belong together."""

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from fungi.errors import FungiError
from fungi.runtime.code_hash import code_hash
from fungi.runtime.versions import code_commit, package_versions

WITHOUT_EFFECT = ("fungi", "h5py")
"""Packages whose version changes no number: our own is told by the hash of its code; h5py stores what it is given."""

EXTRACTION = "fungi.extraction.extract_gradients"
"""The module that computes features of every kind."""

ACCEPT = "--accept-other-versions"


class MixedVersionsError(FungiError):
    """Blocks of one file were made by different versions of the code or of packages."""


@dataclass(frozen=True)
class CodeVersion:
    """Which version of this program computed something.

    code: hash of the source that decides numbers (`code_hash`); commit: where it comes from, for people; versions: of
    the packages it ran with, and of Python.
    """

    code: str = "unknown"
    commit: str = "unknown"
    versions: dict[str, str] = field(default_factory=dict)

    def deciding(self) -> dict[str, str]:
        """Return what can change a number. The machine takes no part: any node may go on with the work of another."""
        return {"code": self.code} | {n: v for n, v in self.versions.items() if n not in WITHOUT_EFFECT}

    def to_json(self) -> str:
        """Return the version as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> "CodeVersion":
        """Return the version that a text holds; an unknown one where the text holds none."""
        try:
            return cls.from_record(json.loads(text or ""))
        except ValueError:
            return cls()

    @classmethod
    def from_record(cls, values: Any) -> "CodeVersion":
        """Return the version from a record that may have other entries; an unknown one where it holds none."""
        try:
            return cls(str(values["code"]), str(values["commit"]), {**values["versions"]})
        except (LookupError, TypeError):
            return cls()


@cache
def version_of(module: str) -> CodeVersion:
    """Return the version of the running program, as far as a module and everything that it imports are concerned."""
    return CodeVersion(code_hash(module), code_commit(), {**package_versions(), "python": platform.python_version()})


def current_version() -> CodeVersion:
    """Return the version of the running program, as far as features are concerned."""
    return version_of(EXTRACTION)


def difference(first: CodeVersion, second: CodeVersion) -> str:
    """Return the differences that can change a number, for people; empty if there are none."""
    here, there = first.deciding(), second.deciding()
    parts = []
    for name in sorted({*here, *there}):
        ours, theirs = here.get(name, "absent"), there.get(name, "absent")
        if ours != theirs and name == "code":
            ours, theirs = f"{ours} (commit {first.commit[:12]})", f"{theirs} (commit {second.commit[:12]})"
        if ours != theirs:
            parts.append(f"{name} {ours} against {theirs}")
    return "; ".join(parts)


def distinct(code_versions: Iterable[CodeVersion]) -> list[CodeVersion]:
    """Return the versions that differ in what can change a number, in their order."""
    versions: dict[str, CodeVersion] = {}
    for code_version in code_versions:
        versions.setdefault(json.dumps(code_version.deciding(), sort_keys=True), code_version)
    return list(versions.values())


def require_one(code_versions: list[CodeVersion], what: str, *, accept: bool) -> None:
    """Raise MixedVersionsError if several versions computed parts of one file, unless that is accepted."""
    if len(code_versions) > 1 and not accept:
        raise MixedVersionsError(
            f"{what} would mix the work of two versions: {difference(*code_versions[:2])}. Go back to the first"
            " version, or run the stage with --overwrite to do the blocks of the other again, or give"
            f" {ACCEPT} if you know that the difference changes no number: the file will name both."
        )
