"""Blocks record the code version that computed them; blocks of two versions do not come into one file unnoticed."""

from pathlib import Path

import h5py
import pytest

from fungi.commands import COMMANDS
from fungi.store import blocks as block_store
from fungi.store import code_version
from fungi.store.assembly import assemble, versions_of
from fungi.store.code_version import CodeVersion, MixedVersionsError, difference, version_of
from fungi.store.provenance import read_provenance
from tests.store.blocks import VALUES, create_blocks, fill

NOW = CodeVersion("a" * 12, "1111111111111111", {"torch": "2.12.1", "h5py": "3.16", "fungi": "1.0"})
OTHER_CODE = CodeVersion("b" * 12, "2222222222222222", NOW.versions)
OTHER_TORCH = CodeVersion(NOW.code, NOW.commit, {**NOW.versions, "torch": "2.11.0"})
OTHER_DOCS = CodeVersion(NOW.code, "3333333333333333", {**NOW.versions, "h5py": "3.15", "fungi": "1.1"})


def write_block(blocks, version: CodeVersion, monkeypatch) -> None:
    monkeypatch.setattr(block_store, "current_version", lambda: version)
    span = blocks.missing()[0]
    blocks.write(span, {"attn": VALUES[span.start : span.stop]})


def test_an_installed_package_is_compared_without_a_commit():
    installed = [CodeVersion(code, "unknown", NOW.versions) for code in ("aaaaaaaaaaaa", "bbbbbbbbbbbb")]
    assert difference(*installed) == "code aaaaaaaaaaaa against bbbbbbbbbbbb"


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (OTHER_CODE, "code aaaaaaaaaaaa (commit 111111111111) against bbbbbbbbbbbb (commit 222222222222)"),
        (OTHER_TORCH, "torch 2.12.1 against 2.11.0"),
        (CodeVersion(), "torch 2.12.1 against absent"),
    ],
)
def test_blocks_of_two_versions_are_not_assembled_unless_that_is_accepted(other, named, tmp_path, monkeypatch):
    blocks, path = create_blocks(tmp_path)
    write_block(blocks, NOW, monkeypatch)
    write_block(blocks, other, monkeypatch)
    monkeypatch.setattr(block_store, "current_version", lambda: NOW)
    fill(blocks)
    with pytest.raises(MixedVersionsError) as refused:
        assemble(blocks, path)
    assert named in str(refused.value)
    assert "--accept-other-versions" in str(refused.value)
    assert blocks.missing() == []
    assert not path.exists()
    assemble(blocks, path, accept=True)
    assert versions_of(path) == [NOW, other]


def test_a_commit_that_changes_no_number_is_not_another_version(tmp_path, monkeypatch):
    blocks, path = create_blocks(tmp_path)
    for version in (NOW, OTHER_DOCS):
        write_block(blocks, version, monkeypatch)
    monkeypatch.setattr(block_store, "current_version", lambda: NOW)
    fill(blocks)
    assemble(blocks, path)
    with h5py.File(path) as file:
        provenance = read_provenance(file)
    assert versions_of(path) == [NOW]
    assert (provenance.commit, provenance.versions) == (NOW.commit, NOW.versions)


FLAGS = ("--objective", "kl", "simclr", "--split", "train")


def as_another_version(monkeypatch, code: str) -> None:
    monkeypatch.setattr(code_version, "code_hash", lambda _: code)
    version_of.cache_clear()


@pytest.fixture(autouse=True)
def _fresh_version():
    version_of.cache_clear()
    yield
    version_of.cache_clear()


@pytest.mark.slow
def test_a_resume_by_another_version_is_refused_accepted_or_computes_again(gradients, tmp_path, monkeypatch, capsys):
    def half(root: Path) -> None:
        as_another_version(monkeypatch, "old")
        assert gradients(root, *FLAGS, "--shard", "1/2") == 0
        as_another_version(monkeypatch, "new")
        capsys.readouterr()

    half(tmp_path)
    assert gradients(tmp_path, *FLAGS) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "kl-train.h5 would mix the work of two versions: code old (commit " in said
    assert "against new (commit" in said
    assert gradients(tmp_path, *FLAGS, "--accept-other-versions") == 0
    file = next(tmp_path.rglob("kl-train.h5"))
    assert [version.code for version in versions_of(file)] == ["old", "new"]

    half(tmp_path / "again")
    assert gradients(tmp_path / "again", *FLAGS, "--overwrite") == 0
    assert [version.code for version in versions_of(next((tmp_path / "again").rglob("kl-train.h5")))] == ["new"]

    capsys.readouterr()
    as_another_version(monkeypatch, "newest")
    assert gradients(tmp_path / "again", *FLAGS) == 0
    assert "made before in the same way, by another version of the program (code new" in capsys.readouterr().out
    assert gradients(tmp_path / "again", *FLAGS, "--overwrite") == 0
    assert [version.code for version in versions_of(next((tmp_path / "again").rglob("kl-train.h5")))] == ["newest"]


@pytest.mark.slow
def test_a_merge_of_shards_of_two_versions_is_refused_or_accepted(gradients, tmp_path, monkeypatch, capsys):
    as_another_version(monkeypatch, "old")
    assert gradients(tmp_path, *FLAGS, "--shard", "1/2") == 0
    as_another_version(monkeypatch, "new")
    monkeypatch.setattr(
        "fungi.extraction.pipeline._settle_versions", lambda *_: None
    )  # as if both had started at the same time
    assert gradients(tmp_path, *FLAGS, "--shard", "2/2") == 2
    capsys.readouterr()
    merge = COMMANDS["merge"].main
    assert merge(["--root", str(tmp_path)]) == 2
    assert "would mix the work of two versions: code old" in capsys.readouterr().err
    assert merge(["--root", str(tmp_path), "--accept-other-versions"]) == 0
    assert sorted(path.name for path in (tmp_path / "gradients").rglob("*.h5")) == ["kl-train.h5", "simclr-train.h5"]


def test_differences_name_each_package_once():
    assert difference(NOW, OTHER_DOCS) == ""
    assert difference(OTHER_TORCH, OTHER_CODE).count("torch 2.11.0 against 2.12.1") == 1
    assert CodeVersion.from_json(NOW.to_json()) == NOW
    assert CodeVersion.from_json("{") == CodeVersion.from_json(None) == CodeVersion()
