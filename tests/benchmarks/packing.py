"""Packing against merely decoding: python -m tests.benchmarks.packing FOLDER [IMAGES] [ROUNDS]

Draws a tree of IMAGES JPEGs (256 x 256, quality 90) in FOLDER/tree, once. Then measures ROUNDS times in turn: decoding
all of them with `decode.decode` in two processes, and packing them with two workers. Prints each round, the median
ratio and the peak memory of all processes together. Also how that memory grows by image, from a packing of a tenth of
them. A second start goes on where the first was ended: images and rounds that are there are kept (FOLDER/rounds.json).
"""

import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
from PIL import Image

PROCESSES, CLASSES, BASES, SIDE = 2, 50, 300, 256
MIB = 2**20
ROOT = Path(__file__).resolve().parents[2]


def draw_tree(folder: Path, images: int) -> Path:
    """folder/tree/class_KK/image_NNNNNN.jpg: crops of some hundred scenes, turned, mirrored, tinted."""
    from geofm_lib.scenes import generate

    tree, labels = folder / "tree", list(generate.CLASSES)
    for k in range(CLASSES):
        (tree / f"class_{k:02d}").mkdir(parents=True, exist_ok=True)
    absent = [i for i in range(images) if not _path(tree, i).is_file()]
    bases = {}
    for i in absent:
        base = i % BASES
        if base not in bases:
            drawn = generate.draw(1, labels[base % len(labels)], base // len(labels), 512)
            bases[base] = np.asarray(Image.open(io.BytesIO(drawn)))
        random = np.random.default_rng(i)
        top, left = random.integers(0, 512 - SIDE, 2)
        crop = np.rot90(bases[base][top : top + SIDE, left : left + SIDE], random.integers(4))
        crop = crop[:, :: random.choice([-1, 1])].astype(np.int16) + random.integers(-12, 13, 3, dtype=np.int16)
        noise = random.integers(-6, 7, (SIDE, SIDE, 1), dtype=np.int16)
        picture = Image.fromarray((crop + noise).clip(0, 255).astype(np.uint8))
        beside = _path(tree, i).with_suffix(".part")
        picture.save(beside, "JPEG", quality=90)
        os.replace(beside, _path(tree, i))
    return tree


def _path(tree: Path, i: int) -> Path:
    return tree / f"class_{i % CLASSES:02d}" / f"image_{i:06d}.jpg"


def decode(paths: list[str]) -> int:
    """Read and decode some files; how many pixels."""
    from geofm_lib.data.decode import decode as decode_image

    pixels = 0
    for path in paths:
        with open(path, "rb") as file:
            pixels += decode_image(file.read()).numel()
    return pixels


def decoding(tree: Path, images: int) -> float:
    """Seconds to decode all images once in two processes."""
    paths = [str(_path(tree, i)) for i in range(images)]
    parts = [paths[k : k + 64] for k in range(0, images, 64)]
    started = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        assert sum(pool.imap_unordered(decode, parts)) == images * SIDE * SIDE * 3
    return time.perf_counter() - started


def packing(tree: Path, run: Path) -> float:
    """Seconds to prepare the tree with two workers: all of it, from listing the files to the previews."""
    from geofm_lib.jobs import prepare
    from geofm_lib.jobs.run_folder import Folder
    from geofm_lib.settings import PrepareSettings

    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    settings = PrepareSettings(dataset=str(tree), run_dir=str(run), workers=PROCESSES)
    started = time.perf_counter()
    summary = prepare.run(settings, SimpleNamespace(is_main=True), Folder(run))
    took = time.perf_counter() - started
    assert summary["refused"] == 0
    assert sum(summary["classes"].values()) == summary["images"]
    return took


def peak(tree: Path, run: Path) -> tuple[int, int]:
    """Bytes that a packing in a process of its own needs at most: (with its workers, its first process alone).

    Pages that processes share are counted once. The first process counts while it has workers: what torch loads for
    the previews afterwards differs by 30 MiB from run to run, whatever the number of images.
    """
    command = [sys.executable, "-m", "tests.benchmarks.packing", "--pack", str(tree), str(run)]
    child = subprocess.Popen(command, cwd=ROOT)
    most = packing = 0
    while child.poll() is None:
        try:
            first, *workers = family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
            most = max(most, sum(process.memory_full_info().pss for process in family))
            if workers:
                packing = max(packing, first.memory_info().rss)
        except psutil.Error:
            pass
        time.sleep(0.2)
    assert child.returncode == 0
    return most, packing


def measure(folder: Path, images: int, rounds: int) -> dict:
    """All of it; {ratio, ratios, peak_mib, bytes_an_image}."""
    stored = folder / "rounds.json"
    found = json.loads(stored.read_text()) if stored.is_file() else {}
    if found.get("images") != images:
        found = {"images": images, "rounds": []}
    tree = draw_tree(folder, images)
    few = draw_tree(folder / "few", images // 10)
    while len(found["rounds"]) < rounds:
        pair = [decoding(tree, images), packing(tree, folder / "run")]
        found["rounds"].append(pair)
        stored.write_text(json.dumps(found))
        print(f"decode {pair[0]:.1f} s, pack {pair[1]:.1f} s, ratio {pair[1] / pair[0]:.3f}", flush=True)
    ratios = [pack / decoded for decoded, pack in found["rounds"][:rounds]]
    (_, small), (together, large) = (peak(each, folder / "run") for each in (few, tree))
    shutil.rmtree(folder / "run")
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "peak_mib": round(together / MIB),
        "bytes_an_image": round((large - small) / (images - images // 10)),
    }


if __name__ == "__main__":
    if sys.argv[1] == "--pack":
        packing(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        place, images, rounds = (sys.argv[1:] + ["100000", "5"][len(sys.argv) - 2 :])[:3]
        print(json.dumps(measure(Path(place).resolve(), int(images), int(rounds))))
