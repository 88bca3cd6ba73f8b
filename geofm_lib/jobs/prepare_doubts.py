"""Numbers that were read as stored and yet may not be what is meant: sentences for the page."""

from geofm_lib.data.sources import raster, unused
from geofm_lib.jobs.prepare_collection import Collection


def of(images: Collection) -> list[str]:
    """What the images of a set, each sound for itself, let doubt together."""
    return [*_scalings(images), *_swapped(images)]


def _scalings(images: Collection) -> list[str]:
    """Files with scales or offsets of their own hold other units each."""
    total = len(images.names)
    found = {note: count for note, count in images.conversions.items() if note.startswith(raster.UNSCALED)}
    if all(count == total for count in found.values()):
        return []
    counts = [f"{count} {note.removeprefix(raster.UNSCALED).strip()}" for note, count in found.items()]
    if total > sum(found.values()):
        counts.append(f"{total - sum(found.values())} without any")
    words = f"files differ in the scale and offset that turn their numbers into units ({'; '.join(counts[:4])})"
    return [f"{words}: the stored numbers are not comparable; apply scale and offset to each file, then start again"]


def _swapped(images: Collection) -> list[str]:
    if 2 * images.swapped <= len(images.names):
        return []
    (bands, _), names = max(images.kinds.items(), key=lambda kind: len(kind[1]))
    words = f"{images.swapped} images, such as '{names[0]}', have {bands} bands and are narrow"
    return [f"{words}: bands and columns look swapped; write arrays by {unused.WRITE}"]
