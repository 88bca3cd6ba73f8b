"""What names and tables tell before an image is read: wrong settings, bands, masks, tables that do not fit."""

from collections.abc import Iterable
from itertools import islice

from geofm_lib.data.sources import (
    archives,
    chosen,
    coco,
    file_names,
    given,
    labels,
    listing,
    mask_pairs,
    pattern,
    previews,
)

AT_LAUNCH = chosen.AT_LAUNCH  # files that are looked at before a run is started
MOST_BYTES = 2**22  # of tables that are read whole by then


def at_launch(source: listing.Source, text: str, bands: str, choice: str) -> None:
    """Raise ValueError, one sentence, for what can be known within seconds. text, choice: settings pattern and labels.

    Tars are not read for it, of larger folders and tables it is what the first files and rows tell.
    """
    if mask_pairs.asked(choice) is not None:
        few = source.kind in ("folder", "zip") and len(list(islice(archives.every(source), AT_LAUNCH + 1))) <= AT_LAUNCH
        if few or source.kind in ("prepared", "download"):
            mask_pairs.find(source, text, choice, classes=False)
        return
    if coco.asked(choice) is not None:
        if source.kind in ("folder", "zip", "download"):
            coco.locate(source, choice)
        return
    found = chosen.check(text, bands, source)
    if source.kind not in ("folder", "zip"):
        if choice not in labels.WORDS:
            given.glance(choice, source, None)
        return
    files = list(islice(archives.every(source), AT_LAUNCH + 1))
    names = None
    if len(files) <= AT_LAUNCH:
        names = _called(filter(listing.is_image_name, files), text, found)
        if not text:
            parts(names or [])
            previews.count(source)
    if choice in labels.WORDS:
        return
    if names is not None and given.size(choice, source) <= MOST_BYTES:
        labels.check(choice, source, names)
    else:
        given.glance(choice, source, names)


def in_job(source: listing.Source, text: str, choice: str) -> None:
    """Raise ValueError, one sentence, for what all names and whole tables tell, before anything is packed."""
    if mask_pairs.asked(choice) is not None or coco.asked(choice) is not None:
        return  # the job has looked for them
    listed = archives.names(source)
    images = None if listed is None else list(listed)
    if images and not text:
        parts(images)
    if choice not in labels.WORDS:
        found = chosen.survey(source, text) if text and images else None
        labels.check(choice, source, images and _called(images, text, found))


def parts(names: list[str]) -> None:
    """Raise ValueError, one sentence, where files are single bands of samples, or masks, and no pattern says so."""
    file_names.refuse_bands(names)
    file_names.refuse_masks(names)


def _called(images: Iterable[str], text: str, found: chosen.Survey | None) -> list[str] | None:
    """The names that the images of a pattern will have, None for those of stacks."""
    if not text or found is None:
        return list(images)
    template = pattern.parse(text)
    if "band" in template.fields:
        return None
    return [name for name in images if chosen.is_chosen(template, name, found.top)]
