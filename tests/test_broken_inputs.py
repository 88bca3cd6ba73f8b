"""A hundred broken inputs: each refused with its reason, the rest intact, and nothing written outside the run."""

import io
import os
import re
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geofm_lib.data import shards
from geofm_lib.data.sources import archives
from tests.support.pictures import class_folders, encode, noise
from tests.support.preparations import apart, prepared, refused

JPEG, PNG = encode(noise(1, (64, 48)), "JPEG", quality=90), encode(noise(1, (64, 48)))
TIFF, GIF = encode(noise(1, (64, 48)), "TIFF"), encode(noise(1, (64, 48)).quantize(16), "GIF")
NOBODY = 65534


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 3.6 billion pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return PNG[:8] + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + PNG[33:]


def files() -> dict[str, tuple[bytes, str]]:
    """{name: (bytes, words of the reason)} of single files."""
    found = {}
    for suffix, whole in (("jpg", JPEG), ("png", PNG), ("tif", TIFF), ("gif", GIF)):
        for tenth in range(1, 10):
            found[f"cut at {tenth} tenths.{suffix}"] = (whole[: len(whole) * tenth // 10], "damaged|not an image")
        found[f"no bytes.{suffix}"] = (b"", "the file is empty")
        found[f"only zeros.{suffix}"] = (bytes(len(whole)), "not an image")
        found[f"text.{suffix}"] = (b"this is a text, whatever its name", "not an image")
        found[f"head lost.{suffix}"] = (whole[64:], "damaged|not an image")
    random = np.random.default_rng(0)
    for k, bit in enumerate(random.integers(8 * 8, 8 * (len(PNG) - 12), 24).tolist()):
        found[f"flipped bit {k}.png"] = (flipped(PNG, bit), "damaged|not an image|too small|too large")
    for k in range(
        1, 7
    ):  # the marker that begins the sizes, and the tables after it: the JPEG says nothing without them
        found[f"flipped mark {k}.jpg"] = (flipped(JPEG, 8 * JPEG.index(b"\xff\xc0") + 8 + k), "damaged|not an image")
    half = len(PNG) // 2
    found |= {
        "second half zeros.png": (PNG[:half] + bytes(len(PNG) - half), "damaged"),
        "bomb.png": (bomb(), "too large"),
        "one pixel.png": (encode(Image.new("RGB", (1, 1))), "too small: 1 x 1"),
        "line.png": (encode(Image.new("RGB", (500, 2))), "too small: 500 x 2"),
        "float.tif": (encode(noise(2).convert("F"), "TIFF"), "it has 1 band of float32"),
    }
    return found


FILES = files()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """All broken files among twelve good ones, links and pipes that lead nowhere, an empty class, a class of one."""
    place = tmp_path_factory.mktemp("broken")
    source = class_folders(place / "set")
    good = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in source.glob("*/[a-zí]*.jpg")}
    for name, (data, _) in FILES.items():
        (source / "río" / name).write_bytes(data)
    (source / "alone").mkdir()
    (source / "alone" / "one.png").write_bytes(good.setdefault("alone/one.png", PNG))
    (source / "really a jpeg.png").write_bytes(good.setdefault("really a jpeg.png", JPEG))
    (source / "empty").mkdir()
    (source / "río" / "round.jpg").symlink_to("round.jpg")
    (source / "río" / "nowhere.jpg").symlink_to("absent.jpg")
    (source / "río" / "loop").symlink_to(source)
    os.mkfifo(source / "río" / "pipe.jpg")
    with open(source / "río" / "sparse.jpg", "wb") as file:
        file.truncate(archives.MOST_BYTES + 1)
    return place, good, prepared(place / "run", source, workers=2)


OTHERS = {
    "río/round.jpg": "cannot be read: Too many levels of symbolic links",
    "río/nowhere.jpg": "cannot be read: No such file",
    "río/pipe.jpg": "no ordinary file",
    "río/sparse.jpg": "more than the 536870912 that an image may have",
    "empty": "the folder is empty",
}


@pytest.mark.parametrize("name", [*(f"río/{name}" for name in FILES), *OTHERS])
def test_each_is_refused_with_its_reason(broken, name):
    _, _, (_, refused, _) = broken
    words = OTHERS.get(name) or FILES[name.split("/")[1]][1]
    assert re.search(words, refused[name])
    assert "\n" not in refused[name]


def test_the_rest_is_intact_and_nothing_is_outside(broken):
    place, good, (summary, refused, packed) = broken
    assert set(refused) == {f"río/{name}" for name in FILES} | set(OTHERS)
    assert packed == good
    assert len(good) == 14
    assert summary["classes"]["alone"] == 1
    assert sorted(os.listdir(place)) == ["run", "set"]


def member(name: str, data: bytes = PNG, **fields) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


def test_hostile_names_in_a_tar(tmp_path):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    with tarfile.open(inside / "set.tar", "w") as out:
        for name in (
            "../../../outside.png",
            "/absolute.png",
            "x/../../up.png",
            "..\\..\\windows.png",
            "./dot//two.png",
        ):
            out.addfile(*member(name))
        out.addfile(*member("twice.png"))
        out.addfile(*member("twice.png", JPEG))
        out.addfile(*member("y/../twice.png"))
        out.addfile(member("link.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")[0])
        out.addfile(member("loop.png", b"", type=tarfile.LNKTYPE, linkname="loop.png")[0])
        out.addfile(member("device.png", b"", type=tarfile.CHRTYPE)[0])
    _, refused, packed = prepared(inside / "run", inside / "set.tar")
    kept = ["absolute.png", "dot/two.png", "outside.png", "twice.png", "windows.png", "x/up.png", "y/twice.png"]
    assert sorted(packed) == kept
    assert set(packed.values()) == {PNG}
    assert refused == {"twice.png": "another image has the same name"}
    for shard in (inside / "run" / "shards").glob("*.tar"):
        with tarfile.open(shard) as archive:
            assert sorted(archive.getnames()) == kept
    assert sorted(os.listdir(inside)) == ["run", "set.tar"]
    assert os.listdir(tmp_path) == ["a"]
    assert not os.path.exists("/absolute.png")


def test_broken_members_of_a_zip(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as out:
        for k in range(3):
            out.writestr(f"a/{k}.png", encode(noise(k)))
        out.writestr("../../up.png", PNG)
        out.writestr("a/crc.png", b"0123456789" * 50)
        out.writestr("a/locked.png", PNG)
    data = bytearray(path.read_bytes())
    data[data.index(b"0123456789") + 5] ^= 1
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # say that the last member is encrypted
        data[data.rindex(mark) + place] |= 1
    path.write_bytes(data)
    _, refused, packed = prepared(tmp_path / "run", path)
    assert sorted(packed) == ["a/0.png", "a/1.png", "a/2.png", "up.png"]
    assert "Bad CRC-32" in refused["a/crc.png"]
    assert "encrypted" in refused["a/locked.png"]
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="damaged .*list of members"):
        prepared(tmp_path / "cut", path)


@pytest.mark.parametrize("archive", ["set.tar", "set.tar.gz"])
@pytest.mark.parametrize("tenth", [3, 6, 9])
def test_cut_archives_keep_their_readable_part(tmp_path, archive, tenth):
    with tarfile.open(tmp_path / archive, "w:gz" if archive.endswith("gz") else "w") as out:
        for k in range(40):
            out.addfile(*member(f"{k:02d}.png", encode(noise(k, (40, 40)))))
    path = tmp_path / archive
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenth // 10])
    _, refused, packed = prepared(tmp_path / "run", path)
    assert set(refused) == {archive}
    assert "damaged here" in refused[archive]
    assert 4 * (tenth - 1) <= len(packed) < 40
    assert all(packed[f"{k:02d}.png"] == encode(noise(k, (40, 40))) for k in range(len(packed)))


def test_a_bomb_in_a_tar_is_not_read(tmp_path):
    head = member("huge.png")[0]
    head.size = 2**40
    with tarfile.open(tmp_path / "set.tar", "w") as out:
        out.addfile(*member("good.png"))
    good = (tmp_path / "set.tar").read_bytes()[: 512 + -(-len(PNG) // 512) * 512]
    (tmp_path / "set.tar").write_bytes(good + head.tobuf() + bytes(2048))
    _, refused, packed = prepared(tmp_path / "run", tmp_path / "set.tar")
    assert list(packed) == ["good.png"]
    assert "1099511627776 bytes" in refused["huge.png"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_files_and_folders_without_permission():
    """As an unprivileged user, since root may read everything."""
    place = Path(tempfile.mkdtemp())  # not tmp_path: nobody but its owner may enter that
    try:
        source = class_folders(place / "set")
        (source / "río" / "locked.jpg").write_bytes(JPEG)
        (source / "locked class").mkdir()
        (source / "locked class" / "x.jpg").write_bytes(JPEG)
        (place / "run").mkdir()
        for path, mode in (
            (place, 0o755),
            (place / "run", 0o777),
            (source / "río" / "locked.jpg", 0),
            (source / "locked class", 0),
        ):
            path.chmod(mode)  # fmt: skip
        child = apart(_as_nobody, place / "run", source)
        child.join()
        (source / "locked class").chmod(0o755)
        assert child.exitcode == 0
        assert refused(place / "run") == {
            "río/locked.jpg": "cannot be read: Permission denied",
            "locked class": "cannot be read: the folder cannot be read: Permission denied",
        }
        assert len(shards.Shards(place / "run")) == 12
    finally:
        shutil.rmtree(place)


def _as_nobody(folder: Path, source: Path) -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    prepared(folder, source, workers=1)
