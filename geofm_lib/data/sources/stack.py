"""Bands that lie in a file each, put together: which ones, in which order, on which grid."""

import json
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from geofm_lib.data.sources import raster, validity
from geofm_lib.data.sources.item import Geo, Raster, Refused

# What products have beside their bands: classes, masks, previews, atmosphere. `bands` may name them all the same.
NO_BANDS = frozenset(
    "SCL TCI PVI AOT WVP CLD SNW CLDPRB SNWPRB MSK QA QA60 QA_PIXEL QA_RADSAT CLM CLP DATAMASK".split()
)
CLEAR = 2 / 3  # of the samples have a band: it is wanted; of less than 1 - CLEAR: it is left out; between, it is asked


PICTURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}  # GDAL's name of a format and how it begins


class Part(NamedTuple):
    """The file of one band, on its own grid. declared: nodata values; mask: where it was measured."""

    name: str
    found: Raster
    declared: tuple[float | None, ...]
    mask: np.ndarray | None

    @property
    def values(self) -> np.ndarray:
        """[H, W, C], C mostly 1."""
        return self.found.values

    @property
    def geo(self) -> Geo | None:
        """Where it lies."""
        return self.found.geo


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which B2 comes before B10, and B8A between B08 and B09.

    >>> sorted(["B10", "B8A", "B09", "B2", "B08"], key=natural)
    ['B2', 'B08', 'B8A', 'B09', 'B10']
    """
    return [(int(digits or -1), text.lower()) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def order(text: str) -> list[str]:
    """The names in the setting `bands`. Raises ValueError, one sentence, for an empty or a repeated one."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    if "" in names:
        raise ValueError(f"bands: '{text}' has an empty name; write names with commas between them, as in B04,B03,B02")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"bands: '{text}' names {', '.join(sorted(twice))} twice; name each band once")
    return names


def choose(counts: Mapping[str, int], samples: int, text: str = "") -> tuple[list[str], list[str]]:
    """(bands to stack in their order, those left out). counts: band -> samples that have it. text: setting `bands`.

    Raises ValueError, one sentence, for unknown bands, and where it is not clear which are meant.
    """
    there = sorted(counts, key=natural)
    if names := order(text):
        spelled = {name.lower(): name for name in there}
        if unknown := [name for name in names if name.lower() not in spelled]:
            raise ValueError(f"bands: there is no {', '.join(unknown)}; the files have {_few(there)}")
        chosen = [spelled[name.lower()] for name in names]
    else:
        chosen = [name for name in there if counts[name] >= CLEAR * samples and name.upper() not in NO_BANDS]
        doubtful = [name for name in there if (1 - CLEAR) * samples < counts[name] < CLEAR * samples]
        if doubtful and not chosen or any(name.upper() not in NO_BANDS for name in doubtful):
            raise ValueError(
                f"pattern: only {counts[doubtful[0]]} of {samples} samples have the band {doubtful[0]}; say which to "
                f"stack, such as bands={','.join(chosen or doubtful)}, or make the pattern narrower"
            )
    if not chosen:
        raise ValueError(
            f"pattern: no {{band}} is in most of the {samples} samples ({_few(there)}); {{band}} must be the text in "
            "which the files of one sample differ"
        )
    return chosen, [name for name in there if name not in chosen]


def _few(names: list[str]) -> str:
    return ", ".join(names if len(names) < 20 else [*names[:18], "...", names[-1]])


def read(loads: list[tuple[str, Callable[[], bytes]]], left_out: str, nodata: str = "", alpha: str = "auto") -> Raster:
    """The bands of one sample on the grid of the finest, in the given order.

    loads: name and bytes of each band's file. left_out: what to tell of others. Coarser bands are resampled bilinearly,
    centre of pixel to centre of pixel; beside a pixel that holds nodata or a usual fill, the nearest one is taken.
    Raises Refused where files do not belong together, and what reading them raises.
    """
    try:
        parts = [_part(name, load()) for name, load in loads]
    except ImportError as error:
        raise ValueError(str(error)) from None
    kinds = {part.values.dtype.name: [p.name for p in parts if p.values.dtype == part.values.dtype] for part in parts}
    if len(kinds) > 1:
        there = [f"{kind} ({_few(names)})" for kind, names in kinds.items()]
        raise Refused(f"its bands have different types: {' and '.join(there)}; choose by bands")
    finest = max(parts, key=lambda part: part.values.shape[0] * part.values.shape[1])
    height, width = finest.values.shape[:2]
    coarser = [part for part in parts if part.values.shape[:2] != (height, width)]
    for part in parts:
        _check_ground(part, finest)
    values = np.concatenate([_grown(part.values, height, width, part.declared) for part in parts], axis=-1)
    masks = [_nearest(part.mask, height, width) for part in parts if part.mask is not None]
    mask = np.logical_and.reduce(masks) if masks else None
    declared = [value for part in parts for value in part.declared]
    colours = ["undefined"] * len(declared)
    found = raster.understand(np.moveaxis(values, -1, 0), declared, mask, colours, None, nodata, alpha)
    found.geo, found.compressed = finest.geo, any(part.found.compressed for part in parts)
    found.converted[:0] = [f"{len(parts)} files stacked", *filter(None, [left_out, _resampled(coarser, finest)])]
    return found


def _part(name: str, data: bytes) -> Part:
    library, kind = (
        raster.library(),
        raster.driver(data) or next((k for k, v in PICTURES.items() if data.startswith(v)), ""),
    )
    if not kind:
        raise Refused(f"band {name} is {'empty' if not data else 'no image in a format that can be stacked'}")
    try:
        with library.Env(**raster.OPTIONS), library.MemoryFile(data) as file, raster.opened(file.name, kind) as dataset:
            size = dataset.count * dataset.height * dataset.width
            raster.check_size(size, size * raster.MOST_BYTES.get(dataset.dtypes[0], 4), len(data))
            found = raster.read_window(dataset, None, nodata="none", alpha="keep")
            masked = "per_dataset" in {flag.name for flag in dataset.mask_flag_enums[0]}
            return Part(name, found, dataset.nodatavals, dataset.read_masks(1) > 0 if masked else None)
    except (library.errors.RasterioError, library._err.CPLE_BaseError) as error:
        raise OSError(f"band {name}: {raster.words(error)}") from None


def _check_ground(part: Part, finest: Part) -> None:
    """Refuse a file that shows other ground than the finest, by its reference or else by its proportions."""
    (h, w), (height, width) = part.values.shape[:2], finest.values.shape[:2]
    if abs(w * height - width * h) > max(width, height):  # one pixel of the coarser grid may be cut
        raise Refused(f"its bands of {width} x {height} and {w} x {h} pixels ({part.name}) cannot show the same ground")
    if part.geo and finest.geo:
        mine, other = _bounds(part.geo, h, w), _bounds(finest.geo, height, width)
        pixel = max(abs(part.geo.transform[0]), abs(part.geo.transform[4]), abs(part.geo.transform[1]))
        if part.geo.crs != finest.geo.crs or np.abs(np.subtract(mine, other)).max() > 1.01 * pixel:
            raise Refused(f"its bands {finest.name} and {part.name} lie on different ground")


def _bounds(geo: Geo, height: int, width: int) -> tuple[float, float, float, float]:
    a, b, c, d, e, f = geo.transform
    return c, f, c + a * width + b * height, f + d * width + e * height


def _grown(values: np.ndarray, height: int, width: int, declared: tuple[float | None, ...]) -> np.ndarray:
    """[h, w, C] -> [height, width, C] of the same type."""
    h, w, _ = values.shape
    if (h, w) == (height, width):
        return values
    near = _nearest(values, height, width)
    special = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    for value in (*declared, *validity.FILLS.get(values.dtype.name, ())):
        if value is not None:
            special |= values == value
    smooth = _bilinear(np.where(special, 0, values).astype(np.float64), height, width)
    if values.dtype.kind != "f":
        smooth = np.rint(smooth)
    return np.where(_bilinear(special.astype(np.float64), height, width) > 0, near, smooth.astype(values.dtype))


def _bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    for axis, size in ((0, height), (1, width)):
        length = values.shape[axis]
        at = ((np.arange(size) + 0.5) * length / size - 0.5).clip(0, length - 1)
        low = np.floor(at).astype(int)
        weight = (at - low).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
        high = np.minimum(low + 1, length - 1)
        values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return values


def _nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = (np.arange(n) * values.shape[k] // n for k, n in ((0, height), (1, width)))
    return values[rows][:, columns]


def _resampled(coarser: list[Part], finest: Part) -> str:
    """What to tell of resampled bands, the same words for all samples of a set: metres where they are known."""
    if not coarser:
        return ""
    sides = [_metres(part) for part in (*coarser, finest)]
    if all(sides):
        return f"{' and '.join(f'{side:g} m' for side in sorted(set(sides[:-1])))} bands resampled to {sides[-1]:g} m"
    times = sorted({round(finest.values.shape[1] / part.values.shape[1], 1) for part in coarser})
    return f"bands {' and '.join(f'{each:g}' for each in times)} times coarser resampled to the finest"


def _metres(part: Part) -> float:
    """The side of a pixel, 0 where it is not known in metres."""
    known = part.geo is not None and part.geo.crs and raster.library().crs.CRS.from_user_input(part.geo.crs)
    return round(abs(part.geo.transform[0]), 2) if known and known.linear_units in ("metre", "meter") else 0  # type: ignore[union-attr]


def label(data: bytes) -> str:
    """What a JSON file says under labels, label or class, with "|" between several; "" for nothing."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    said = (
        next((found[key] for key in ("labels", "label", "class") if found.get(key)), "")
        if isinstance(found, dict)
        else ""
    )
    labels = said if isinstance(said, list) else [said]
    return "|".join(str(each) for each in labels if isinstance(each, str | int))
