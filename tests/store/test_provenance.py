"""Two files are the same if the facts that decide their numbers are equal. Other facts do not count."""

import dataclasses
from dataclasses import replace

import pytest

from fungi.store.code_version import CodeVersion, distinct
from fungi.store.provenance import Provenance
from tests.evaluation.feature_folder import PROVENANCE

# Facts that do not decide the numbers in a file.
INFORMATION = {
    "weights_source",
    "settings",
    "versions",
    "commit",
    "code_versions",
    "computed_on",
    "skipped_samples",
    "complete",
}
# Type of a fact -> a value that `PROVENANCE` does not have.
OTHER = {str: "other", int: 7, bool: False, dict: {"other": "x"}, list: [{"code": "other"}]}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Provenance)])
def test_only_facts_that_decide_numbers_make_another_file(name):
    value = ["other"] if name in ("computed_on", "skipped_samples") else OTHER[type(getattr(PROVENANCE, name))]
    other = replace(PROVENANCE, **{name: value})
    assert (other.identity() != PROVENANCE.identity()) == (name not in INFORMATION)


def test_an_identity_equals_the_identity_that_is_read_from_a_file():
    settings = replace(PROVENANCE, objective_settings={"area": (0.25, 1)}).identity()["objective_settings"]
    assert settings == {"area": [0.25, 1]}  # JSON has no tuples


def test_the_order_of_packages_does_not_make_another_version():
    packages = {"torch": "2.12.1", "numpy": "2.4"}
    versions = [CodeVersion("a", "b", entries) for entries in (packages, dict(reversed(packages.items())))]
    other_version = CodeVersion("c", "b", packages)
    assert distinct(versions) == versions[:1]
    assert distinct([*versions, other_version]) == [versions[0], other_version]
