"""Archives: whole or not at all, and never outside the folder."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from fungi.data.base import DATASETS, open_split
from fungi.data.formats import archives
from fungi.data.formats.archives import fetch, made_whole, unpack, unpack_folder
from fungi.data.formats.torchvision_sets import TorchvisionDownload
from fungi.errors import FungiError
from tests.data.makers.miniature import tar_folders


def _tar(path: Path, members: list[tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for member in members:
            member.size = 4 if member.isreg() else 0
            file.addfile(member, io.BytesIO(b"evil"))
    return path


def _zip(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, "evil")
    return path


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "a/b/../../../evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_member_outside_the_folder_is_refused(name, kind, tmp_path):
    into = tmp_path / "inner" / "target"
    into.mkdir(parents=True)
    made = _tar(tmp_path / "a.tgz", [tarfile.TarInfo(name)]) if kind == "tar" else _zip(tmp_path / "a.zip", name)
    with pytest.raises(FungiError, match="would be written outside of the folder"):
        unpack(made, into)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [made]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    made = _tar(tmp_path / "a.tgz", [_link("folder", "/etc", kind)])
    with pytest.raises(FungiError, match="'folder' is a link or a device"):
        unpack(made, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_refused_archive_leaves_no_folder(tmp_path):
    members = [tarfile.TarInfo("images/1.jpg"), tarfile.TarInfo("images/../../evil")]
    made = _tar(tmp_path / "a.tgz", members)
    with pytest.raises(FungiError, match="outside"):
        unpack_folder(lambda: made, "images", tmp_path / "data" / "images")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("cut", [10, 200])
def test_damaged_archive_is_named_and_leaves_no_folder(cut, tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.bin").write_bytes(bytes(range(256)) * 8)
    sources = {f"images/{number}": tmp_path / f"{number}.bin" for number in range(5)}
    tar_folders(tmp_path / "a.tgz", sources)
    (tmp_path / "a.tgz").write_bytes((tmp_path / "a.tgz").read_bytes()[:-cut])
    with pytest.raises(FungiError, match=rf"the archive {tmp_path}/a.tgz is damaged .*Download it again"):
        unpack_folder(lambda: tmp_path / "a.tgz", "images", tmp_path / "data" / "images")
    assert list((tmp_path / "data").iterdir()) == []


def test_wrong_archive_is_named(tmp_path):
    made = _tar(tmp_path / "a.tgz", [tarfile.TarInfo("other/1.jpg")])
    with pytest.raises(FungiError, match=r"does not contain images\. Download the correct archive"):
        unpack_folder(lambda: made, "images", tmp_path / "data" / "images")


def test_folder_appears_whole_or_not_at_all(tmp_path):
    def interrupted():
        with made_whole(tmp_path / "target") as work:
            (work / "half").touch()
            assert not (tmp_path / "target").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_download_of_torchvision_is_whole_and_not_repeated(tmp_path, monkeypatch, miniature):
    import torchvision.datasets

    made, calls = miniature("cifar10"), []

    class Fake:
        def __init__(self, root, download):
            calls.append(root)
            (made.data_dir / "cifar10" / "cifar-10-batches-py").rename(Path(root) / "cifar-10-batches-py")

    expected = made.open("train").fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets, "CIFAR10", Fake)
        for _ in range(2):
            DATASETS["cifar10"].download(tmp_path / "fetched")
    assert len(calls) == 1
    assert open_split("cifar10", "train", tmp_path / "fetched").fingerprint() == expected


def test_full_disk_is_explained_and_leaves_no_folder(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    made = _tar(tmp_path / "a.tgz", [tarfile.TarInfo("images/1.jpg")])
    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with pytest.raises(FungiError, match=r"can't unpack .*a\.tgz .*No space left on device.*Free disk space"):
        unpack_folder(lambda: made, "images", tmp_path / "data" / "images")
    assert list((tmp_path / "data").iterdir()) == []


def test_empty_folder_does_not_pass_for_a_finished_one(tmp_path):
    made = _tar(tmp_path / "a.tgz", [tarfile.TarInfo("images/1.jpg")])
    (tmp_path / "images").mkdir()
    unpack_folder(lambda: made, "images", tmp_path / "images")
    assert (tmp_path / "images" / "1.jpg").read_bytes() == b"evil"


def test_failed_download_is_explained_and_leaves_nothing(tmp_path, monkeypatch):
    import torchvision.datasets

    class Offline:
        def __init__(self, root, download):
            (Path(root) / "half").touch()
            raise OSError("Network is unreachable")

    monkeypatch.setattr(torchvision.datasets, "DTD", Offline)
    with pytest.raises(
        FungiError, match=rf"can't download DTD \(Network is unreachable\).*copy the folder to {tmp_path}"
    ):
        TorchvisionDownload("DTD", "textures")(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_aircraft_archive_is_fetched_and_its_members_checked(tmp_path, monkeypatch, miniature):
    made = miniature("aircraft")
    source = tmp_path / "fgvc-aircraft-2013b.tar.gz"
    tar_folders(source, {"fgvc-aircraft-2013b": made.data_dir / "aircraft" / "fgvc-aircraft-2013b"})
    monkeypatch.setattr(archives.urllib.request, "urlopen", lambda url: io.BytesIO(source.read_bytes()))
    DATASETS["aircraft"].download(tmp_path / "fetched")
    fetched = open_split("aircraft", "train", tmp_path / "fetched")
    assert fetched.fingerprint() == made.open("train").fingerprint()
    assert [path.name for path in (tmp_path / "fetched" / "aircraft").iterdir()] == ["fgvc-aircraft-2013b"]


def test_unreachable_server_is_explained(tmp_path, monkeypatch):
    def offline(url):
        raise OSError("Name or service not known")

    monkeypatch.setattr(archives.urllib.request, "urlopen", offline)
    with pytest.raises(FungiError, match=r"can't download https://example\.org/a\.tgz \(Name or service not known\)"):
        fetch("https://example.org/a.tgz", tmp_path)


@pytest.mark.parametrize("name", ["", ".", "images/a\0b.jpg", "images/a\nb.jpg", "\x7f"])
def test_a_name_that_no_file_can_have_is_refused(name, tmp_path, monkeypatch):
    made = _tar(tmp_path / "a.tgz", [tarfile.TarInfo("images/1.jpg")])
    monkeypatch.setattr(archives, "_tar_members", lambda *_: iter([(name, 4, lambda: io.BytesIO(b"evil"))]))
    with pytest.raises(FungiError, match=r"a\.tgz was refused: its member '.*' has an invalid name"):
        unpack(made, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_nameless_member_of_a_real_archive_is_refused(tmp_path):
    with pytest.raises(FungiError, match="its member '' has an invalid name"):
        unpack(_tar(tmp_path / "a.tgz", [tarfile.TarInfo("")]), tmp_path / "target")
    made = tarfile.TarInfo("a")
    made.pax_headers = {"path": "a\0b"}
    archive = _tar(tmp_path / "b.tgz", [made])
    with pytest.raises(FungiError, match=r"its member 'a\\x00b' has an invalid name"):
        unpack(archive, tmp_path / "target")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_bomb_is_stopped_on_its_way_and_leaves_nothing(kind, tmp_path, monkeypatch):
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
    swelling = len(zeros) / path.stat().st_size
    assert swelling > archives.LARGEST_EXPANSION
    with pytest.raises(FungiError, match=r"expands to more than 200 times.*'images/1\.jpg'"):
        unpack_folder(lambda: path, "images", tmp_path / "data" / "images")
    assert list((tmp_path / "data").iterdir()) == []
    monkeypatch.setattr(archives, "LARGEST_EXPANSION", 2 * int(swelling))
    unpack_folder(lambda: path, "images", tmp_path / "data" / "images")
    assert (tmp_path / "data" / "images" / "1.jpg").stat().st_size == len(zeros)


def test_no_more_is_read_of_a_member_than_it_states(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images/1.jpg", bytes(8 << 20))
    content = bytearray(path.read_bytes())
    place = content.rfind(b"PK\x01\x02") + 24  # of the size, in the table at the end
    content[place : place + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(FungiError, match=r"a\.zip is damaged .*CRC"):
        unpack_folder(lambda: path, "images", tmp_path / "data" / "images")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_crowd_of_empty_files_is_a_bomb_too(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1 << 10)
    monkeypatch.setattr(archives, "LARGEST_EXPANSION", 0)
    members = [tarfile.TarInfo(f"images/{place}") for place in range(3)]
    with pytest.raises(FungiError, match="archive bomb"):
        unpack(_tar(tmp_path / "a.tgz", members), tmp_path / "target")
