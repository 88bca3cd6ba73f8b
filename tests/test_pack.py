"""Packing: what comes out after kill -9 is what would have come out, and others read our shards too."""

import os
import random
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from geofm_lib.data import pack, pool, shards
from geofm_lib.data.sample import Sample
from tests.support.pictures import class_folders, encode, noise
from tests.support.preparations import apart, prepare_slowly, prepared, server
from tests.support.timing import scaled

LISTS = ("index.csv", "split.csv", "refused.csv", "duplicates.csv", "statistics.json", "card.csv")
OPTIONS = {"workers": 2, "shard_mib": 0.05, "train_ratio": 0.5}


def source(folder: Path, each: int) -> Path:
    """Class folders with refused files and duplicates among the good ones."""
    class_folders(folder, ("a", "b", "c"), each)
    for k in range(0, each, 5):
        (folder / "b" / f"b {k} copy.png").write_bytes(encode(Image.open(folder / "a" / f"a {k}.jpg")))
        (folder / "c" / f"c {k} broken.jpg").write_bytes(b"no image")
    return folder


def written(folder: Path) -> dict[str, bytes]:
    names = [name for name in LISTS if (folder / name).is_file()]
    return {
        path.name: path.read_bytes() for path in [*(folder / "shards").iterdir(), *(folder / name for name in names)]
    }


def kill(folder: Path, dataset: Path, after: float) -> bool:
    """Start a preparation and kill it and its workers after some seconds; whether it was still at it."""
    child = apart(prepare_slowly, folder, dataset, OPTIONS)
    child.join(after)
    running = child.is_alive()
    if running:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:  # so early that it has no group yet, nor workers
            child.kill()
    child.join()
    assert running or child.exitcode == 0
    return running


def killed_often(place: Path, times: int, seed: int) -> None:
    dataset = source(place / "set", 70)
    server()  # its start is no part of what is timed
    started = time.monotonic()
    assert not kill(place / "whole", dataset, scaled(60))
    whole, took = written(place / "whole"), time.monotonic() - started
    assert sum(name.endswith(".tar") for name in whole) >= 5
    moments, kills, kept = random.Random(seed), 0, 0
    folder = place / "killed"
    while kills < times:
        complete = (path.with_suffix(".tar") for path in folder.glob("shards/*.csv"))
        before = {path: path.stat().st_mtime_ns for path in complete}
        if kill(folder, dataset, moments.uniform(0.05, 0.9) * took):
            kills += 1
            kept += any(path.stat().st_mtime_ns == was for path, was in before.items())
        else:
            assert written(folder) == whole
            subprocess.run(["rm", "-r", folder], check=True)
        assert {path.stat().st_mtime_ns for path in before if path.exists()} <= set(before.values()), "written again"
    prepared(folder, dataset, **OPTIONS)
    assert written(folder) == whole
    assert kept or times < 10
    print(f"{kills} kills of a packing of {took:.1f} s; {kept} went on from finished shards")


def test_killed_three_times(tmp_path):
    killed_often(tmp_path, 3, seed=time.time_ns())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_twenty_times(tmp_path):
    killed_often(tmp_path, 20, seed=time.time_ns())


def test_other_settings_or_another_source_begin_again(tmp_path):
    dataset = source(tmp_path / "set", 10)
    prepared(tmp_path / "run", dataset, **OPTIONS)
    before = written(tmp_path / "run")
    (dataset / "a" / "a 3.jpg").unlink()
    prepared(tmp_path / "run", dataset, **OPTIONS)
    prepared(tmp_path / "fresh", dataset, **OPTIONS)
    assert written(tmp_path / "run") == written(tmp_path / "fresh") != before


def test_bytes_that_do_not_fit_the_shared_memory_come_all_the_same(tmp_path, monkeypatch):
    dataset = source(tmp_path / "set", 30)
    prepared(tmp_path / "usual", dataset, **OPTIONS)
    monkeypatch.setattr(pool, "SLOT", 5000)
    prepared(tmp_path / "little", dataset, **OPTIONS)
    assert written(tmp_path / "little") == written(tmp_path / "usual")


def test_webdataset_and_tar_read_the_shards(tmp_path):
    summary, _, packed = prepared(tmp_path / "run", source(tmp_path / "set", 30), **OPTIONS)
    tars = sorted(map(str, (tmp_path / "run" / "shards").glob("*.tar")))
    assert len(tars) == summary["shards"] > 1
    found = {}
    for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
        (suffix,) = set(sample) - {"__key__", "__url__", "__local_path__"}
        found[f"{sample['__key__']}.{suffix}"] = sample[suffix]
    assert found == packed
    listed = [subprocess.run(["tar", "tf", tar], capture_output=True, text=True, check=True) for tar in tars]
    assert [name for done in listed for name in done.stdout.splitlines()] == list(packed)
    assert not any(done.stderr for done in listed)


def test_shards_close_at_their_size(tmp_path):
    samples = [Sample(f"{i}.bin", data=bytes(700), width=8, height=8, channels=3) for i in range(9)]
    samples.insert(3, Sample("refused.jpg", reason="a reason"))
    names = [sample.shard for sample in pack.pack(samples, tmp_path, shard_bytes=4000) if not sample.reason]
    assert names == ["000000.tar"] * 3 + ["000001.tar"] * 3 + ["000002.tar"] * 3
    assert pack.finished(tmp_path) == 3
    read = list(pack.rows(tmp_path))
    for before, after in zip(samples, read, strict=True):
        before.data = b""
        assert before == after


def test_members_begin_as_tarfile_writes_them():
    for name in ("a.jpg", "x" * 100, "x" * 101, "d/" * 60 + "a.png", "río/ü.tif"):
        info = tarfile.TarInfo(name)
        info.size = 12345
        assert pack._header(name, 12345) == info.tobuf(tarfile.PAX_FORMAT)


def test_short_side_and_quality(tmp_path):
    dataset = tmp_path / "set"
    for k, size in enumerate([(100, 60), (60, 100), (30, 40)]):
        (dataset / str(k)).mkdir(parents=True)
        (dataset / str(k) / "x.png").write_bytes(encode(noise(k, size)))
    summary, _, _ = prepared(tmp_path / "small", dataset, short_side=32)
    data = shards.Shards(tmp_path / "small")
    assert data.sizes.tolist() == [[32, 53], [53, 32], [40, 30]], "none is enlarged"
    assert summary["converted"] == 2
    _, _, packed = prepared(tmp_path / "jpeg", dataset, quality=80)
    assert all(each.startswith(b"\xff\xd8\xff") for each in packed.values())


def test_rows_are_read_alike_whether_or_not_names_are_quoted(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "AT_ONCE", 4)
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", 'f, "g"\nh.jpg', "\n\n.jpg", *map(str, range(9))]
    for _ in pack.pack((Sample(name, data=b"x") for name in names), tmp_path, 2**20):
        pass
    assert [sample.name for sample in pack.rows(tmp_path)] == names
    assert [len(block["name"]) for block in pack.columns(tmp_path)] == [4, 4, 4, 4]
