"""A small detection set: pictures with bright and dark rectangles, and their COCO file."""

import json

import numpy as np
from PIL import Image

KINDS = ("bright", "dark")


def picture(number, size=32):
    """(pixels, [(left, top, width, height, kind)]): two rectangles on grey, none in every fifth picture."""
    random = np.random.default_rng(number)
    pixels = random.integers(100, 130, (size, size, 3))
    boxes = []
    for kind in range(2 if number % 5 < 4 else 0):
        width, height = random.integers(8, 14, 2)
        left, top = random.integers(0, size // 2 - 2), 16 * kind + random.integers(0, 3)
        pixels[top : top + height, left : left + width] = 240 - 220 * kind
        boxes.append((int(left), int(top), int(width), int(height), kind))
    return pixels.astype(np.uint8), boxes


def written(count=16, size=32):
    """The COCO file of so many pictures."""
    content = {"images": [], "annotations": [], "categories": [{"id": 7 + k, "name": n} for k, n in enumerate(KINDS)]}
    for number in range(count):
        image = {"id": number, "file_name": f"t{number % 4}_{number}.png", "width": size, "height": size}
        content["images"].append(image)
        for left, top, width, height, kind in picture(number, size)[1]:
            box = {"id": len(content["annotations"]), "image_id": number, "category_id": 7 + kind, "iscrowd": 0}
            content["annotations"].append(box | {"bbox": [left, top, width, height]})
    return content


def detected(folder, count=16, size=32, content=None):
    """A set of four places, images/ beside annotations.json."""
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(picture(number, size)[0]).save(folder / "images" / f"t{number % 4}_{number}.png")
    (folder / "annotations.json").write_text(json.dumps(content or written(count, size)))
    return folder
