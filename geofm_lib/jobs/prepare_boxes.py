"""The boxes of a detection set, held against their images and written beside them (`data/boxes`).

They come after the images, whose sizes are known by then. What is wrong with a box leaves out that box; an image of
which it cannot be said what is on it is refused.
"""

from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.data import boxes, pack, several
from geofm_lib.data.sources import coco, listing
from geofm_lib.data.sources.coco import Box, Found
from geofm_lib.jobs.prepare_collection import Collection
from geofm_lib.jobs.run_folder import Folder, Stopped
from geofm_lib.scenes import things
from geofm_lib.settings import PrepareSettings

SIZES = ("tile", "short_side")
UNNAMED = "'{file}' does not name it"
OTHER_SIZE = "'{file}' says that it has {known[0]} x {known[1]} pixels, and it has {size[0]} x {size[1]}"


def find(settings: PrepareSettings, source: listing.Source) -> Found | None:
    """The boxes that are asked for; None where none are. ValueError, one sentence, for what they forbid."""
    if coco.asked(settings.labels) is None:
        return None
    if source.kind == "scenes":
        return Found("", "", list(things.KINDS))
    for name in SIZES:
        if getattr(settings, name):
            raise ValueError(f"{name}: it changes the size of images, and boxes stay as they are; leave it at 0")
    return coco.find(source, settings.pattern, settings.labels)


def add(
    settings: PrepareSettings, source: listing.Source, found: Found, images: Collection, run: Folder
) -> dict[str, str]:
    """Hold the boxes against the good images; returns {image: why nothing can be said of it}."""
    if source.kind == "scenes":
        for number, (name, seen) in enumerate(
            things.boxes(settings.images_per_class, settings.scene_size, settings.seed)
        ):
            found.boxes[name] = [Box(*each) for each in seen]
            if number % 256 == 0 and run.stop_requested():
                raise Stopped(f"stopped after the boxes of {number} images; the next start draws them again")
        return {}
    sizes = {sample.name: (sample.width, sample.height) for sample in pack.rows(run.path) if not sample.reason}
    reasons = {name: reason for name in images.names if (reason := _reason(found, name, sizes[name]))}
    for name in images.names:
        if name not in reasons:
            coco.clip(found, name, *sizes[name])
    return reasons


def _reason(found: Found, name: str, size: tuple[int, int]) -> str:
    if name in found.unclear:
        return found.unclear[name]
    if name not in found.boxes:
        return UNNAMED.format(file=found.file)
    known = found.sizes[name]
    return OTHER_SIZE.format(file=found.file, known=known, size=size) if all(known) and known != size else ""


def lists(folder: Path, found: Found, names: list[str]) -> dict[str, Any]:
    """Write boxes/index.csv and boxes/classes.csv; numbers of the summary. ValueError where no image has a box."""
    rows = [(name, box.kind, *(round(each, 2) for each in box[:4]), int(box.crowd))
            for name in names for box in found.boxes[name]]  # fmt: skip
    if not rows:
        raise ValueError(f"labels: '{found.file}' has no box in any of the {len(names)} images that can be used")
    (folder / boxes.CLASSES).parent.mkdir(exist_ok=True)
    files.write_table(folder / boxes.CLASSES, boxes.CLASS_COLUMNS, enumerate(found.classes))
    files.write_table(folder / boxes.INDEX, boxes.COLUMNS, rows)
    objects = {row[0] for row in rows}
    return {"boxes": len(rows), "box_classes": found.classes, "background_images": len(names) - len(objects)}


def labels(found: Found, names: list[str]) -> list[str]:
    """The kinds of objects on each image, by which it is split too; `several.NONE` for an image without any."""
    of = ({box.kind for box in found.boxes[name]} for name in names)
    return [several.BETWEEN.join(found.classes[kind] for kind in sorted(kinds)) or several.NONE for kinds in of]


def told(found: Found) -> list[str]:
    """Sentences for the page."""
    return found.told()
