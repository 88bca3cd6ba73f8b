"""Encoded test images, made on the spot: good ones and every kind of bad one."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int = 0, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A random RGB image with soft patches, `size` = (width, height)."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    """The image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def class_folders(root: Path, classes=("crop land", "río"), each: int = 6) -> Path:
    """A folder of class folders with `each` JPEGs in each, and things that are no images."""
    for k, label in enumerate(classes):
        (root / label).mkdir(parents=True)
        for i in range(each):
            (root / label / f"{label} {i}.jpg").write_bytes(encode(noise(100 * k + i), "JPEG", quality=95))
    (root / "README.txt").write_text("no image")
    (root / classes[0] / "._hidden.jpg").write_bytes(b"a shadow copy of macOS")
    return root


def as_archive(folder: Path, archive: Path) -> Path:
    """`folder` as a tar, tar.gz or zip, by the archive's name, with the folder itself at its top."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as out:
            for file in sorted(folder.rglob("*")):
                out.write(file, Path(folder.name) / file.relative_to(folder))
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as out:
            out.add(folder, folder.name)
    return archive
