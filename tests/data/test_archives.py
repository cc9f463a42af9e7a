"""Archives are unpacked completely or not at all, and never outside the target folder."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from fungi.data.base import DATASETS, open_split
from fungi.data.formats import archives
from fungi.data.formats.archives import atomic_folder, fetch, unpack, unpack_folder
from fungi.data.formats.torchvision_sets import TorchvisionDownload
from fungi.errors import FungiError
from tests.data.miniatures.miniature import tar_folders


def _tar(path: Path, members: list[tarfile.TarInfo]) -> Path:
    """Write a tar archive, and return its path. Every file in it contains `evil`."""
    with tarfile.open(path, "w:gz") as file:
        for member in members:
            member.size = 4 if member.isreg() else 0
            file.addfile(member, io.BytesIO(b"evil"))
    return path


def _zip(path: Path, name: str) -> Path:
    """Write a zip archive with a single file, and return its path."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, "evil")
    return path


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    """Return a member of a tar archive that is a link to `target` or a device. kind: code of the type in `tarfile`."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "a/b/../../../evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_outside_the_folder_is_refused(name, kind, tmp_path):
    target = tmp_path / "inner" / "target"
    target.mkdir(parents=True)
    archive = _tar(tmp_path / "a.tgz", [tarfile.TarInfo(name)]) if kind == "tar" else _zip(tmp_path / "a.zip", name)
    with pytest.raises(FungiError, match="would be written outside of the folder"):
        unpack(archive, target)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    archive = _tar(tmp_path / "a.tgz", [_link("folder", "/etc", kind)])
    with pytest.raises(FungiError, match="'folder' is a link or a device"):
        unpack(archive, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_refused_archive_leaves_no_folder(tmp_path):
    members = [tarfile.TarInfo("images/1.jpg"), tarfile.TarInfo("images/../../evil")]
    archive = _tar(tmp_path / "a.tgz", members)
    with pytest.raises(FungiError, match="outside"):
        unpack_folder(lambda: archive, "images", tmp_path / "data" / "images")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("missing_bytes", [10, 200])
def test_the_error_for_a_truncated_archive_names_the_archive_and_no_folder_is_left(missing_bytes, tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.bin").write_bytes(bytes(range(256)) * 8)
    sources = {f"images/{number}": tmp_path / f"{number}.bin" for number in range(5)}
    tar_folders(tmp_path / "a.tgz", sources)
    (tmp_path / "a.tgz").write_bytes((tmp_path / "a.tgz").read_bytes()[:-missing_bytes])
    with pytest.raises(FungiError, match=rf"the archive {tmp_path}/a.tgz is damaged .*Download it again"):
        unpack_folder(lambda: tmp_path / "a.tgz", "images", tmp_path / "data" / "images")
    assert list((tmp_path / "data").iterdir()) == []


def test_the_error_for_a_wrong_archive_names_the_missing_folder(tmp_path):
    archive = _tar(tmp_path / "a.tgz", [tarfile.TarInfo("other/1.jpg")])
    with pytest.raises(FungiError, match=r"does not contain images\. Download the correct archive"):
        unpack_folder(lambda: archive, "images", tmp_path / "data" / "images")


def test_a_folder_is_complete_or_does_not_exist(tmp_path):
    def write_and_interrupt():
        with atomic_folder(tmp_path / "target") as temporary_folder:
            (temporary_folder / "first file").touch()
            assert not (tmp_path / "target").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_interrupt()
    assert list(tmp_path.iterdir()) == []


def test_a_torchvision_download_is_complete_and_not_repeated(tmp_path, monkeypatch, miniature):
    import torchvision.datasets

    dataset, downloads = miniature("cifar10"), []

    class FakeDownload:
        def __init__(self, root, download):
            downloads.append(root)
            (dataset.data_dir / "cifar10" / "cifar-10-batches-py").rename(Path(root) / "cifar-10-batches-py")

    expected = dataset.open("train").fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets, "CIFAR10", FakeDownload)
        for _ in range(2):
            DATASETS["cifar10"].download(tmp_path / "downloaded")
    assert len(downloads) == 1
    assert open_split("cifar10", "train", tmp_path / "downloaded").fingerprint() == expected


def test_a_full_disk_is_explained_and_leaves_no_folder(tmp_path, monkeypatch):
    def raise_full_disk(source, target):
        raise OSError(28, "No space left on device")

    archive = _tar(tmp_path / "a.tgz", [tarfile.TarInfo("images/1.jpg")])
    monkeypatch.setattr(archives.shutil, "copyfileobj", raise_full_disk)
    with pytest.raises(FungiError, match=r"can't unpack .*a\.tgz .*No space left on device.*Free disk space"):
        unpack_folder(lambda: archive, "images", tmp_path / "data" / "images")
    assert list((tmp_path / "data").iterdir()) == []


def test_an_empty_folder_counts_as_missing(tmp_path):
    archive = _tar(tmp_path / "a.tgz", [tarfile.TarInfo("images/1.jpg")])
    (tmp_path / "images").mkdir()
    unpack_folder(lambda: archive, "images", tmp_path / "images")
    assert (tmp_path / "images" / "1.jpg").read_bytes() == b"evil"


def test_a_failed_download_is_explained_and_leaves_no_files(tmp_path, monkeypatch):
    import torchvision.datasets

    class FailedDownload:
        def __init__(self, root, download):
            (Path(root) / "first file").touch()
            raise OSError("Network is unreachable")

    monkeypatch.setattr(torchvision.datasets, "DTD", FailedDownload)
    with pytest.raises(
        FungiError, match=rf"can't download DTD \(Network is unreachable\).*copy the folder to {tmp_path}"
    ):
        TorchvisionDownload("DTD", "textures")(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_aircraft_archive_is_downloaded_and_checked(tmp_path, monkeypatch, miniature):
    dataset = miniature("aircraft")
    source = tmp_path / "fgvc-aircraft-2013b.tar.gz"
    tar_folders(source, {"fgvc-aircraft-2013b": dataset.data_dir / "aircraft" / "fgvc-aircraft-2013b"})
    monkeypatch.setattr(archives.urllib.request, "urlopen", lambda url: io.BytesIO(source.read_bytes()))
    DATASETS["aircraft"].download(tmp_path / "downloaded")
    samples = open_split("aircraft", "train", tmp_path / "downloaded")
    assert samples.fingerprint() == dataset.open("train").fingerprint()
    assert [path.name for path in (tmp_path / "downloaded" / "aircraft").iterdir()] == ["fgvc-aircraft-2013b"]


def test_an_unreachable_server_is_explained(tmp_path, monkeypatch):
    def raise_unknown_host(url):
        raise OSError("Name or service not known")

    monkeypatch.setattr(archives.urllib.request, "urlopen", raise_unknown_host)
    with pytest.raises(FungiError, match=r"can't download https://example\.org/a\.tgz \(Name or service not known\)"):
        fetch("https://example.org/a.tgz", tmp_path)


@pytest.mark.parametrize("name", ["", ".", "images/a\0b.jpg", "images/a\nb.jpg", "\x7f"])
def test_an_invalid_file_name_is_refused(name, tmp_path, monkeypatch):
    archive = _tar(tmp_path / "a.tgz", [tarfile.TarInfo("images/1.jpg")])
    monkeypatch.setattr(archives, "_tar_members", lambda *_: iter([(name, 4, lambda: io.BytesIO(b"evil"))]))
    with pytest.raises(
        FungiError, match=r"a\.tgz was refused: its member '.*' has an invalid name\. Download it again"
    ):
        unpack(archive, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_members_with_invalid_names_in_a_real_archive_are_refused(tmp_path):
    with pytest.raises(FungiError, match="its member '' has an invalid name"):
        unpack(_tar(tmp_path / "a.tgz", [tarfile.TarInfo("")]), tmp_path / "target")
    member = tarfile.TarInfo("a")
    member.pax_headers = {"path": "a\0b"}
    archive = _tar(tmp_path / "b.tgz", [member])
    with pytest.raises(FungiError, match=r"its member 'a\\x00b' has an invalid name"):
        unpack(archive, tmp_path / "target")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_bomb_is_refused_and_leaves_no_files(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1 << 20)
    zeros, path = bytes(8 << 20), tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("images/1.jpg", zeros)
    else:
        with tarfile.open(path, "w:gz") as file:
            member = tarfile.TarInfo("images/1.jpg")
            member.size = len(zeros)
            file.addfile(member, io.BytesIO(zeros))
    expansion = len(zeros) / path.stat().st_size
    assert expansion > archives.LARGEST_EXPANSION
    with pytest.raises(FungiError, match=r"expands to more than 200 times.*'images/1\.jpg'"):
        unpack_folder(lambda: path, "images", tmp_path / "data" / "images")
    assert list((tmp_path / "data").iterdir()) == []
    monkeypatch.setattr(archives, "LARGEST_EXPANSION", 2 * int(expansion))
    unpack_folder(lambda: path, "images", tmp_path / "data" / "images")
    assert (tmp_path / "data" / "images" / "1.jpg").stat().st_size == len(zeros)


def test_a_member_that_is_larger_than_its_stated_size_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images/1.jpg", bytes(8 << 20))
    content = bytearray(path.read_bytes())
    offset = content.rfind(b"PK\x01\x02") + 24  # offset of the size in the central directory
    stated_size = 100
    content[offset : offset + 4] = stated_size.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(FungiError, match=r"a\.zip is damaged .*CRC"):
        unpack_folder(lambda: path, "images", tmp_path / "data" / "images")
    assert list((tmp_path / "data").iterdir()) == []


def test_many_empty_files_are_refused_as_an_archive_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1 << 10)
    monkeypatch.setattr(archives, "LARGEST_EXPANSION", 0)
    members = [tarfile.TarInfo(f"images/{number}") for number in range(3)]
    with pytest.raises(FungiError, match="archive bomb"):
        unpack(_tar(tmp_path / "a.tgz", members), tmp_path / "target")
