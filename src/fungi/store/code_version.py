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
"""Packages whose version changes no number: our own code has a hash instead, and h5py only stores numbers."""

EXTRACTION = "fungi.extraction.extract_gradients"
"""The module that computes features of every kind."""

ACCEPT = "--accept-other-versions"


class MixedVersionsError(FungiError):
    """Blocks of one file were computed by different versions of the code or of packages."""


@dataclass(frozen=True)
class CodeVersion:
    """The version of this program that computed something.

    code: hash of the source that decides numbers (`code_hash`); commit: commit of the source, for people; versions:
    versions of Python and of the installed packages.
    """

    code: str = "unknown"
    commit: str = "unknown"
    versions: dict[str, str] = field(default_factory=dict)

    def deciding(self) -> dict[str, str]:
        """Return what can change a number. The machine is left out: any node may continue the work of another."""
        return {"code": self.code} | {n: v for n, v in self.versions.items() if n not in WITHOUT_EFFECT}

    def to_json(self) -> str:
        """Return the version as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> "CodeVersion":
        """Return the version that a text describes; an unknown version for any other text."""
        try:
            return cls.from_record(json.loads(text or ""))
        except ValueError:
            return cls()

    @classmethod
    def from_record(cls, values: Any) -> "CodeVersion":
        """Return the version in a record, which may have other entries; an unknown version if it has none."""
        try:
            return cls(str(values["code"]), str(values["commit"]), {**values["versions"]})
        except (LookupError, TypeError):
            return cls()


@cache
def version_of(module: str) -> CodeVersion:
    """Return the version of the running program; its code is a module and everything that this module imports."""
    return CodeVersion(code_hash(module), code_commit(), {**package_versions(), "python": platform.python_version()})


def current_version() -> CodeVersion:
    """Return the version of the running program; its code is everything that computes features."""
    return version_of(EXTRACTION)


def difference(first: CodeVersion, second: CodeVersion) -> str:
    """Return the differences that can change a number, for people; empty if there are none."""
    here, there = first.deciding(), second.deciding()
    parts = []
    for name in sorted({*here, *there}):
        ours, theirs = here.get(name, "absent"), there.get(name, "absent")
        if ours != theirs and name == "code":
            ours, theirs = ours + _commit_in_words(first), theirs + _commit_in_words(second)
        if ours != theirs:
            parts.append(f"{name} {ours} against {theirs}")
    return "; ".join(parts)


def _commit_in_words(code_version: CodeVersion) -> str:
    """Return ` (commit 0123456789ab)`; empty for an installed package, which has no commit."""
    return "" if code_version.commit == "unknown" else f" (commit {code_version.commit[:12]})"


def distinct(code_versions: Iterable[CodeVersion]) -> list[CodeVersion]:
    """Return one version of each group of versions that give the same numbers, in order."""
    versions: dict[str, CodeVersion] = {}
    for code_version in code_versions:
        versions.setdefault(json.dumps(code_version.deciding(), sort_keys=True), code_version)
    return list(versions.values())


def require_one(code_versions: list[CodeVersion], what: str, *, accept: bool) -> None:
    """Raise MixedVersionsError if several versions computed parts of one file, unless that is accepted."""
    if len(code_versions) > 1 and not accept:
        raise MixedVersionsError(
            f"{what} would mix the work of two versions: {difference(*code_versions[:2])}. Go back to the first"
            " version, or run the stage with --overwrite to compute the blocks of the other version again, or give"
            f" {ACCEPT} if you know that the difference changes no number: the file will name both."
        )
