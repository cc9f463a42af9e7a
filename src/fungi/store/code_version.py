"""The version of the code and packages that computed a block. Numbers of two versions should not be mixed."""

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
"""Packages whose version does not change numbers: our own code has a hash instead, and h5py only stores numbers."""

EXTRACTION = "fungi.extraction.extract_gradients"
"""The module whose imports compute all features."""

ACCEPT_FLAG = "--accept-other-versions"


class MixedVersionsError(FungiError):
    """Raised if different versions of the code or of packages computed the blocks of one file."""


@dataclass(frozen=True)
class CodeVersion:
    """The version of the program that computed numbers.

    code: hash of the source that determines the numbers (`code_hash`). commit: commit of the source, for people.
    versions: versions of Python and of the installed packages.
    """

    code: str = "unknown"
    commit: str = "unknown"
    versions: dict[str, str] = field(default_factory=dict)

    def versions_of_identity(self) -> dict[str, str]:
        """Return the versions that can change a number.

        They do not include the machine, so that any node can continue the work of another node.
        """
        packages = {name: version for name, version in self.versions.items() if name not in WITHOUT_EFFECT}
        return {"code": self.code} | packages

    def to_json(self) -> str:
        """Return the version as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> "CodeVersion":
        """Return the version in a text of `to_json`; an unknown version for any other text."""
        try:
            return cls.from_record(json.loads(text or ""))
        except ValueError:
            return cls()

    @classmethod
    def from_record(cls, values: Any) -> "CodeVersion":
        """Return the version in a record that may also have other entries; an unknown version without these entries."""
        try:
            return cls(str(values["code"]), str(values["commit"]), {**values["versions"]})
        except (LookupError, TypeError):
            return cls()


@cache
def version_of(module: str) -> CodeVersion:
    """Return the version of the running program. Its code hash covers `module` and everything that `module` imports."""
    return CodeVersion(code_hash(module), code_commit(), {**package_versions(), "python": platform.python_version()})


def current_version() -> CodeVersion:
    """Return the version of the running program. Its code hash covers everything that computes features."""
    return version_of(EXTRACTION)


def difference(first: CodeVersion, second: CodeVersion) -> str:
    """Return the differences that can change a number, as a text for people; empty without such differences."""
    first_versions, second_versions = first.versions_of_identity(), second.versions_of_identity()
    differences = []
    for name in sorted({*first_versions, *second_versions}):
        old, new = first_versions.get(name, "absent"), second_versions.get(name, "absent")
        if old != new and name == "code":
            old, new = old + _commit_in_words(first), new + _commit_in_words(second)
        if old != new:
            differences.append(f"{name} {old} against {new}")
    return "; ".join(differences)


def _commit_in_words(code_version: CodeVersion) -> str:
    """Return ` (commit 0123456789ab)`; empty for an installed package, which has no commit."""
    return "" if code_version.commit == "unknown" else f" (commit {code_version.commit[:12]})"


def distinct(code_versions: Iterable[CodeVersion]) -> list[CodeVersion]:
    """Return the versions in order; leave out a version if it gives the same numbers as an earlier version."""
    versions: dict[str, CodeVersion] = {}
    for code_version in code_versions:
        versions.setdefault(json.dumps(code_version.versions_of_identity(), sort_keys=True), code_version)
    return list(versions.values())


def require_one_version(code_versions: list[CodeVersion], file: str, *, accept: bool) -> None:
    """Raise MixedVersionsError if several versions computed parts of a file. accept: whether to allow this."""
    if len(code_versions) > 1 and not accept:
        raise MixedVersionsError(
            f"{file} would mix the work of two versions: {difference(*code_versions[:2])}. Go back to the first"
            " version, or run the stage with --overwrite to compute the blocks of the other version again. If you know"
            f" that the difference changes no number, use {ACCEPT_FLAG}: the file will name both versions."
        )
