"""A small segmentation set: pictures of land beside water, and their masks."""

import io

import numpy as np
from PIL import Image

CLASSES = "0 water\n1 land\n2 unlabeled\n"


def png(ids, mode="L"):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(ids, np.uint8)).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def scene(number, size=24):
    """(a picture, its mask): a bright half of land beside dark water, where the line between them moves."""
    at = 4 + number % 16
    ids = np.zeros((size, size), np.uint8)
    ids[:, at:] = 1
    noise = np.random.default_rng(number).integers(0, 60, (size, size, 3))
    return (noise + 120 * ids[..., None]).astype(np.uint8), ids


def segmented(folder, count=16):
    """A set of four areas of four images, images/ and masks/ apart."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        picture, ids = scene(number)
        Image.fromarray(picture).save(folder / "images" / f"t{number % 4}_{number}.png")
        ids[0, 0] = 2
        (folder / "masks" / f"t{number % 4}_{number}.png").write_bytes(png(ids))
    (folder / "classes.txt").write_text(CLASSES)
    return folder
