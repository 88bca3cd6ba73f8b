"""Where the images of a preparation come from, and what its data shards are made of."""

from pathlib import Path
from typing import Any

from geofm_lib.catalog.datasets import DRAWN
from geofm_lib.data.sources import early, listing, reading, series, tiles
from geofm_lib.data.sources.reading import Reading
from geofm_lib.scenes import generate, seasons
from geofm_lib.settings import PrepareSettings

OPTIONS = "pattern bands channels short_side quality shard_mib nodata alpha valid_min tile stride".split()
SERIES_ONLY = ["labels", "dates"]
SCENES_ONLY = "images_per_class scene_size seed".split()


def read(settings: PrepareSettings, source: listing.Source, folder: Path) -> tuple[Reading, dict[str, Any]]:
    """(the images, what shards are made of in plain values). source: of the dataset. Downloads go below `folder`."""
    options = OPTIONS + SCENES_ONLY * (source.kind in DRAWN)
    options += SERIES_ONLY * (source.kind == "series" or settings.dates > 0)
    made_of = {name: getattr(settings, name) for name in options}
    asked = source
    if source.kind == "scenes":
        made_of["source"] = f"{listing.signature(settings.dataset, asked)} {generate.GENERATOR_VERSION}"
        items = generate.items(settings.images_per_class, settings.scene_size, settings.seed)
        return Reading(items, settings.images_per_class * len(generate.CLASSES)), made_of
    if source.kind == "seasons":
        made_of["source"] = f"{source.kind} {seasons.GENERATOR_VERSION}"
        items = seasons.items(settings.images_per_class, settings.seed)
        return Reading(items, settings.images_per_class * len(seasons.CLASSES), source.kind), made_of
    if source.kind == "series":
        series.refuse_options(settings)
        assert source.path is not None
        items, total = series.items(source.path, settings.labels, settings.dates, settings.nodata)
        told = "the table of series" if settings.labels != "none" else ""
        return Reading(items, total, told), made_of | {"source": listing.signature(settings.dataset, source)}
    if source.kind == "download":
        source = listing.find(listing.fetch(source.name, folder / "download"))
    if settings.tile:
        tiles.check(source)
    early.in_job(source, settings.pattern, settings.labels)
    how = settings.nodata, settings.alpha
    found = reading.read(source, settings.pattern, settings.bands, *how, apart=settings.tile > 0)
    if settings.tile:
        found.items, found.total, left_out = tiles.cut(found.items, settings.tile, settings.stride, *how)
        if left_out > 0:
            words = f"{left_out:.1%} of the scenes' pixels lie in no tile"
            found.warnings.append(f"{words}, since stride is larger than tile")
    if settings.dates:
        found.items, found.total = series.of_pixels(found.items, settings.dates, settings.nodata), None
    return found, made_of | {"source": listing.signature(settings.dataset, asked)}
