"""How fast images come: this loader beside torchvision's ImageFolder and webdataset, interleaved in one process.

GEOFM_TEST_DATA=FOLDER python -m tests.benchmarks.loader [ROUNDS]        rewrites reports/loader.csv (about 2 minutes)

UC Merced (ucm.tar) at 256 pixels becomes float batches [32, 3, 224, 224]: random resized crop (0.2 to 1, bicubic and
antialiased), flip, normalise. A round is 1,024 images (2,048 with workers) through every pipeline in turn. It is
timed from asking for the first batch to having the last, start of the worker processes included. One thread a process
everywhere; files in the page cache.

Peers as their manuals advise: v2 transforms on uint8 tensors (faster than on PIL images), webdataset batched inside its
pipeline, from eight shards. `imagefolder+decode_image` is ImageFolder with torchvision's own decoder in place of PIL.
"""

import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import simplejpeg
import torch
import torchvision
import webdataset
from torchvision.transforms import v2

from geofm_lib import files
from geofm_lib.data import loader, shards
from geofm_lib.data.sample import Sample
from geofm_lib.data.transforms import normalise
from geofm_lib.runs import results
from tests.support import packed

BATCH, SIZE, SCALE = 32, 224, (0.2, 1.0)
STEPS = {0: 32, 2: 64}  # workers -> batches a round; starting processes is a small part of it
MEAN, STD = [0.48, 0.49, 0.45], [0.21, 0.20, 0.19]
ROUNDS, WEB_SHARDS = 5, 8
COLUMNS = ("pipeline", "workers", "images_per_s", "ratio_to_imagefolder", "low", "high")
FILE = results.file("loader")


def transforms() -> v2.Compose:
    """torchvision's way to the same batches."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(SIZE, SCALE, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def image_folder(tree: Path, workers: int, **options) -> Iterator[torch.Tensor]:
    """ImageFolder, v2 transforms, DataLoader."""
    images = torchvision.datasets.ImageFolder(tree, transforms(), **options)
    for pixels, _ in torch.utils.data.DataLoader(images, BATCH, shuffle=True, num_workers=workers, drop_last=True):
        yield pixels


def decode_image(path: str) -> torch.Tensor:
    """A loader for ImageFolder that leaves PIL out."""
    return torchvision.io.decode_image(path, torchvision.io.ImageReadMode.RGB)


def web_dataset(folder: Path, workers: int) -> Iterator[torch.Tensor]:
    """webdataset's own pipeline: shuffled shards and samples, decoded by PIL, batched in the workers."""
    urls = sorted(map(str, folder.glob("*.tar")))
    samples = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1000, seed=0).decode("pil")
    batched = samples.to_tuple("jpg", "cls").map_tuple(transforms(), int).batched(BATCH, partial=False)
    for pixels, _ in webdataset.WebLoader(batched, batch_size=None, num_workers=workers):
        yield pixels


def ours(prepared: shards.Shards, workers: int) -> Iterator[torch.Tensor]:
    """This loader; the last step, `normalise`, is what a training job does on its device."""
    steps = loader.stream(
        prepared, seed=0, global_batch=BATCH, epochs=1, image_size=SIZE, crop_scale=SCALE, workers=workers
    )
    for _, _, [(pixels, _)] in steps:
        yield normalise(pixels, MEAN, STD)


def write_sets(archive: Path, folder: Path) -> tuple[Path, Path, Path]:
    """(class folders, webdataset's shards, our data shards) of one tar of class folders."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    tree = folder / archive.stem
    files = sorted(tree.glob("*/*.jpg"))
    classes = sorted({file.parent.name for file in files})
    web, ours = folder / "web", folder / "packed"
    web.mkdir()
    ours.mkdir()
    for k in range(WEB_SHARDS):
        with webdataset.TarWriter(str(web / f"{k:06d}.tar")) as out:
            for file in files[k::WEB_SHARDS]:
                out.write({"__key__": file.stem, "jpg": file.read_bytes(), "cls": classes.index(file.parent.name)})
    return tree, web, packed.write(ours, map(_sample, files), mean=MEAN, std=STD)


def _sample(file: Path) -> Sample:
    data = file.read_bytes()
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    return Sample(file.name, file.parent.name, width=width, height=height, channels=3, data=data)


def pipelines(tree: Path, web: Path, prepared: Path) -> dict[str, Callable[[int], Iterator[torch.Tensor]]]:
    """name -> function(workers) -> batches. The first is what the others are compared with."""
    read, kept = shards.Shards(prepared, keep_bytes=0), shards.Shards(prepared)
    kept.keep()
    return {
        "imagefolder": lambda workers: image_folder(tree, workers),
        "imagefolder+decode_image": lambda workers: image_folder(tree, workers, loader=decode_image),
        "webdataset": lambda workers: web_dataset(web, workers),
        "geofm": lambda workers: ours(read, workers),
        "geofm, decoded pixels kept": lambda workers: ours(kept, workers),
    }


def images_per_s(stream: Iterator[torch.Tensor], steps: int) -> float:
    """Speed of the first `steps` batches."""
    began = time.perf_counter()
    for pixels in islice(stream, steps):
        assert pixels.shape == (BATCH, 3, SIZE, SIZE)
        assert pixels.dtype == torch.float32
    return BATCH * steps / (time.perf_counter() - began)


def measure(rounds: int) -> list[dict]:
    """Rows of loader.csv: medians over the rounds; the ratio is that of the same round, low and high its extremes."""
    torch.set_num_threads(1)
    archive = Path(os.environ.get("GEOFM_TEST_DATA", "")) / "ucm.tar"
    if not archive.is_file():
        sys.exit("GEOFM_TEST_DATA must name a folder that holds ucm.tar, UC Merced as a tar of class folders of JPEGs")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made = pipelines(*write_sets(archive, Path(folder)))
        for workers, steps in STEPS.items():
            speeds = {name: [] for name in made}
            for number in range(rounds + 1):
                for name, start in made.items():
                    speed = images_per_s(start(workers), steps)
                    if number:  # the first round warms up
                        speeds[name].append(speed)
            first = speeds[next(iter(speeds))]
            for name, found in speeds.items():
                ratios = [a / b for a, b in zip(found, first, strict=True)]
                values = (statistics.median(found), statistics.median(ratios), min(ratios), max(ratios))
                rows.append(dict(zip(COLUMNS, (name, workers, *(f"{v:.3g}" for v in values)), strict=True)))
            ratios = [a / b for a, b in zip(speeds["geofm"], speeds["webdataset"], strict=True)]
            print(f"{workers} workers: geofm / webdataset {statistics.median(ratios):.2f}", flush=True)
            print(f"  from {min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds", flush=True)
    return rows


if __name__ == "__main__":
    found = measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
    files.write_csv(FILE, COLUMNS, found)
    print(FILE.read_text())
