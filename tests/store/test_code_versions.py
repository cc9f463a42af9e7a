"""Blocks record the code version that computed them. Blocks of two versions are joined only on request."""

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
# This version differs from `NOW` only in its commit and in packages that do not change numbers.
OTHER_DOCS = CodeVersion(NOW.code, "3333333333333333", {**NOW.versions, "h5py": "3.15", "fungi": "1.1"})


def write_block(blocks, version: CodeVersion, monkeypatch) -> None:
    """Write the first missing block as if this code version had computed the block."""
    monkeypatch.setattr(block_store, "current_version", lambda: version)
    span = blocks.missing()[0]
    blocks.write(span, {"attn": VALUES[span.start : span.stop]})


def test_versions_of_an_installed_package_are_compared_without_a_commit():
    installed = [CodeVersion(code, "unknown", NOW.versions) for code in ("aaaaaaaaaaaa", "bbbbbbbbbbbb")]
    assert difference(*installed) == "code aaaaaaaaaaaa against bbbbbbbbbbbb"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (OTHER_CODE, "code aaaaaaaaaaaa (commit 111111111111) against bbbbbbbbbbbb (commit 222222222222)"),
        (OTHER_TORCH, "torch 2.12.1 against 2.11.0"),
        (CodeVersion(), "torch 2.12.1 against absent"),
    ],
)
def test_blocks_of_two_versions_are_assembled_only_on_request(other, message, tmp_path, monkeypatch):
    blocks, path = create_blocks(tmp_path)
    write_block(blocks, NOW, monkeypatch)
    write_block(blocks, other, monkeypatch)
    monkeypatch.setattr(block_store, "current_version", lambda: NOW)
    fill(blocks)
    with pytest.raises(MixedVersionsError) as error:
        assemble(blocks, path)
    assert message in str(error.value)
    assert "--accept-other-versions" in str(error.value)
    assert blocks.missing() == []
    assert not path.exists()
    assemble(blocks, path, accept=True)
    assert versions_of(path) == [NOW, other]


def test_a_version_with_the_same_code_is_not_another_version(tmp_path, monkeypatch):
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


def use_version(monkeypatch, code: str) -> None:
    """Let the program have another hash of its code."""
    monkeypatch.setattr(code_version, "code_hash", lambda _: code)
    version_of.cache_clear()


@pytest.fixture(autouse=True)
def _clear_cached_version():
    version_of.cache_clear()
    yield
    version_of.cache_clear()


@pytest.mark.slow
def test_a_run_does_not_resume_with_another_version_except_on_request(gradients, tmp_path, monkeypatch, capsys):
    def compute_half_with_old_version(root: Path) -> None:
        use_version(monkeypatch, "old")
        assert gradients(root, *FLAGS, "--shard", "1/2") == 0
        use_version(monkeypatch, "new")
        capsys.readouterr()

    compute_half_with_old_version(tmp_path)
    assert gradients(tmp_path, *FLAGS) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "kl-train.h5 would mix the work of two versions: code old (commit " in error
    assert "against new (commit" in error
    assert gradients(tmp_path, *FLAGS, "--accept-other-versions") == 0
    file = next(tmp_path.rglob("kl-train.h5"))
    assert [version.code for version in versions_of(file)] == ["old", "new"]

    root = tmp_path / "overwritten"
    compute_half_with_old_version(root)
    assert gradients(root, *FLAGS, "--overwrite") == 0
    assert [version.code for version in versions_of(next(root.rglob("kl-train.h5")))] == ["new"]

    capsys.readouterr()
    use_version(monkeypatch, "newest")
    assert gradients(root, *FLAGS) == 0
    assert "already computed in the same way, by another version of the program (code new" in capsys.readouterr().out
    assert gradients(root, *FLAGS, "--overwrite") == 0
    assert [version.code for version in versions_of(next(root.rglob("kl-train.h5")))] == ["newest"]


@pytest.mark.slow
def test_shards_of_two_versions_are_merged_only_on_request(gradients, tmp_path, monkeypatch, capsys):
    use_version(monkeypatch, "old")
    assert gradients(tmp_path, *FLAGS, "--shard", "1/2") == 0
    use_version(monkeypatch, "new")
    # Remove the check at the start of a stage. The second shard then runs as if it had started with the first shard.
    monkeypatch.setattr("fungi.extraction.pipeline._handle_other_versions", lambda *_: None)
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
