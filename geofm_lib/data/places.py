"""Where images lie: their bounds on the ground or in the scene they were cut from, blocks of ground, and who overlaps.

Bounds are in the units of the image's own reference system. Tiles of a scene without georeference have them in pixels
of that scene, from its top left corner. Blocks count from the origin of the reference system, so that overlapping
scenes and neighbouring chips agree on them.
"""

import itertools
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from geofm_lib.data.sample import Sample
from geofm_lib.data.sources import pattern, tiles

COLUMNS = ("name", "scene", "crs", "west", "south", "east", "north", "row", "column")
COMMON = "EPSG:6933"  # metres of equal area over the whole Earth, where images have several reference systems
TENTH = 10  # blocks along a scene where block_size does not say
AT_ONCE = 2**20  # pairs looked at in one go
REACH = 100.0  # metres between two images of known place, within which one is the other's neighbour
NONE, PIXELS = -1, "pixels"


class Places:
    """The places of some images, as plain numbers: a million are 50 MB.

    frames: reference systems, or scenes for those without. frame: int32 [n], its number, -1 for an image without a
    place. bounds: float64 [n, 4], west, south, east, north (of pixels: left, bottom, right, top, counted down).
    """

    def __init__(self, template: str = "") -> None:
        """template: the setting `pattern`, whose {lon} and {lat} say where an image lies."""
        self.frames: list[str] = []
        self._template = pattern.parse(template) if template else None
        self._number: dict[str, int] = {}
        self._frame, self._bounds = array("i"), array("d")

    def add(self, sample: Sample) -> None:
        """Take in the next image. Raises ValueError, one sentence, for a name whose {lon} or {lat} is none."""
        cut = tiles.origin(sample.name)
        if self._template and (point := _point(self._template, sample.name)):
            self._add("EPSG:4326", *point, *point)
        elif sample.geo:
            crs, *numbers = sample.geo.rsplit(" ", 6)
            a, b, c, d, e, f = map(float, numbers)
            xs = [a * x + b * y + c for x in (0, sample.width) for y in (0, sample.height)]
            ys = [d * x + e * y + f for x in (0, sample.width) for y in (0, sample.height)]
            self._add(crs, min(xs), min(ys), max(xs), max(ys))
        elif cut:
            scene, top, left = cut
            self._add(f"{PIXELS} of {scene}", left, top + sample.height, left + sample.width, top)
        else:
            self._frame.append(NONE)
            self._bounds.extend((np.nan,) * 4)

    def _add(self, frame: str, *bounds: float) -> None:
        if frame not in self._number:
            self._number[frame] = len(self.frames)
            self.frames.append(frame)
        self._frame.append(self._number[frame])
        self._bounds.extend(bounds)

    @property
    def frame(self) -> np.ndarray:
        """The number of each image's frame."""
        return np.frombuffer(self._frame, np.int32)

    @property
    def bounds(self) -> np.ndarray:
        """Those of each image."""
        return np.frombuffer(self._bounds, np.float64).reshape(-1, 4)

    def rows(self, names: list[str], scenes: list[str]) -> Iterator[tuple[str, ...]]:
        """Those of places.csv, of the images that have a place. crs is "" where bounds are pixels of the scene."""
        for i, (name, scene, frame) in enumerate(zip(names, scenes, self._frame, strict=True)):
            if frame != NONE:
                crs = "" if self.frames[frame].startswith(PIXELS) else self.frames[frame]
                _, row, column = tiles.origin(name) or ("", "", "")
                bounds = (f"{value:.10g}" for value in self._bounds[4 * i : 4 * i + 4])
                yield (name, scene, crs, *bounds, str(row), str(column))

    def ground(self) -> np.ndarray:
        """Bounds [n, 2, 2] in COMMON, NaN of an image that has no reference system."""
        found = np.full((len(self.frame), 2, 2), np.nan)
        for k, name in enumerate(self.frames):
            if not name.startswith(PIXELS):
                some = np.flatnonzero(self.frame == k)
                corners = self.bounds[some].reshape(-1, 2, 2)
                found[some] = _moved(np.stack([corners.min(1), corners.max(1)], 1), name)
        return found

    def shared(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """(frame, low and high corners [n, 2, 2], names of the frames), in one reference system for all that have one.

        With several systems that is COMMON, since coordinates of two cannot be compared.
        """
        bounds, frame, frames = self.bounds, self.frame, list(self.frames)
        west, south, east, north = bounds.T
        corners = np.stack(
            [np.minimum(west, east), np.minimum(south, north), np.maximum(west, east), np.maximum(south, north)], 1
        )
        corners, frame = corners.reshape(-1, 2, 2), frame.copy()
        ground = [k for k, name in enumerate(frames) if name and not name.startswith(PIXELS)]
        if len(ground) > 1:
            for k in ground:
                some = np.flatnonzero(frame == k)
                corners[some] = _moved(corners[some], frames[k])
                frame[some] = ground[0]
            frames[ground[0]] = COMMON
        return frame, corners, frames


def _point(template: pattern.Pattern, name: str) -> tuple[float, float] | None:
    """Longitude and latitude in a name, None if it has none; a pattern may leave out its first folders."""
    if not {"lon", "lat"} <= set(template.fields):
        return None
    parts = name.split("/")
    match = next(filter(None, (template.match("/".join(parts[k:])) for k in range(len(parts)))), None)
    if match is None:
        return None
    found = []
    for field, most in (("lon", 180), ("lat", 90)):
        try:
            found.append(float(match.fields[field]))
        except ValueError:
            found.append(np.nan)
        if not abs(found[-1]) <= most:
            text = match.fields[field]
            raise ValueError(f"pattern: {{{field}}} is '{text}' in '{name}', which is no number from -{most} to {most}")
    return found[0], found[1]


def _moved(corners: np.ndarray, crs: str) -> np.ndarray:
    """Bounds [n, 2, 2] of a reference system in COMMON: those around all four corners."""
    import rasterio.warp

    xs = corners[:, [0, 0, 1, 1], 0].ravel().tolist()
    ys = corners[:, [0, 1, 0, 1], 1].ravel().tolist()
    points = np.stack([np.reshape(each, (-1, 4)) for each in rasterio.warp.transform(crs, COMMON, xs, ys)], 2)
    return np.stack([points.min(1), points.max(1)], 1)


def blocks(places: Places, scenes: list[str], size: float = 0.0) -> tuple[list[str], str]:
    """(the block that each image's centre lies in, "" without a place; what a block is, in words).

    size: side of a block, in ground units or pixels; 0: a tenth of the longest scene, or of all where there are none.
    Raises ValueError, one sentence, when there are no places, a block is smaller than an image, or there is only one.
    """
    frame, corners, frames = places.shared()
    known = frame != NONE
    if not known.any():
        raise ValueError(
            "split=block needs to know where images lie, and none says so: use GeoTIFFs, set tile, put {lon} and {lat} "
            "into the pattern, or use split=random"
        )
    largest = float((corners[known, 1] - corners[known, 0]).max())
    if 0 < size < largest:
        raise ValueError(
            f"block_size={size:g} is less than the side of an image ({largest:g}); set it to several images"
        )
    span = max(_span(corners[known], frame[known]), largest)
    side = size or max(_span(corners[known], _numbers(scenes, frame)[known]) / TENTH, largest) or 1.0
    cells = np.full((len(frame), 2), 0, np.int64)
    cells[known] = np.floor(corners[known].mean(1) / side)
    found = [
        f"{frames[k]} {x} {y}".replace("/", ":") if k != NONE else ""
        for k, (x, y) in zip(frame.tolist(), cells.tolist(), strict=True)
    ]
    unit = _unit({frames[k] for k in np.unique(frame[known])})
    if len(set(found) - {""}) < 2:
        raise ValueError(
            f"split=block: all images lie in one block of {side:g} {unit}; set block_size below {span:.3g}"
        )
    return found, f"block of {side:.6g} {unit}"


def _numbers(scenes: list[str], frame: np.ndarray) -> np.ndarray:
    """A number for each (scene, frame): its images lie together."""
    number: dict[tuple[str, int], int] = {}
    pairs = zip(scenes, frame.tolist(), strict=True)
    return np.array([number.setdefault(pair, len(number)) for pair in pairs], dtype=np.int64)


def _span(corners: np.ndarray, group: np.ndarray) -> float:
    """The longest side of the box around all of a group, over the groups."""
    groups, where = np.unique(group, return_inverse=True)
    low, high = np.full((len(groups), 2), np.inf), np.full((len(groups), 2), -np.inf)
    np.minimum.at(low, where, corners[:, 0])
    np.maximum.at(high, where, corners[:, 1])
    return float((high - low).max())


def _unit(frames: Iterable[str]) -> str:
    """What lengths are measured in: m, degrees, pixels ..."""
    found = set()
    for name in frames:
        if name.startswith(PIXELS):
            found.add(PIXELS)
        elif name:
            from rasterio.crs import CRS

            found.add({"metre": "m", "degree": "degrees"}.get(unit := CRS.from_string(name).units_factor[0], unit))
        else:
            found.add("units")
    return " or ".join(sorted(found))


def overlapping(places: Places, sides: list[str], one: str = "train", other: str = "test") -> list[int]:
    """Images of one side that share ground with one of the other: places in the order they were added."""
    frame, corners, _ = places.shared()
    side = np.array(sides)
    ours, theirs = (np.flatnonzero((frame != NONE) & (side == each)) for each in (one, other))
    if not len(ours) or not len(theirs):
        return []
    # Images that overlap have centres at most one largest image apart: in the same cell of that size, or beside it.
    both = np.concatenate([ours, theirs])
    step = float((corners[both, 1] - corners[both, 0]).max()) or 1.0
    cells = np.floor((corners.mean(1) - corners[both].mean(1).min(0)) / step + 1e-9)
    wide = int(cells[both].max()) + 3
    key = np.full(len(frame), -1, np.int64)
    key[both] = (frame[both] * wide + cells[both, 0].astype(np.int64) + 1) * wide + cells[both, 1].astype(np.int64) + 1
    order = theirs[np.argsort(key[theirs], kind="stable")]
    keys = key[order]
    hit = np.zeros(len(frame), bool)
    slack = 1e-6 * step  # corners that touch differ in their last digits
    for x, y in itertools.product((-1, 0, 1), repeat=2):
        near = key[ours] + x * wide + y
        first, last = np.searchsorted(keys, near, "left"), np.searchsorted(keys, near, "right")
        for i, j in _pairs(ours, first, last):
            a, b = corners[i], corners[order[j]]
            shared = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0])
            hit[i[(shared > slack).all(1)]] = True
    return np.flatnonzero(hit).tolist()


def beside(asked: np.ndarray, known: np.ndarray, reach: float = 0.0) -> np.ndarray:
    """Which bounds [n, 2, 2] share ground with one of `known` [m, 2, 2], or lie at most `reach` from it; bool [n]."""
    from scipy.spatial import cKDTree

    hit, there = np.zeros(len(asked), bool), ~np.isnan(asked).any((1, 2))
    known = known[~np.isnan(known).any((1, 2))]
    if not len(known) or not there.any():
        return hit
    half = float((known[:, 1] - known[:, 0]).max() + (asked[there, 1] - asked[there, 0]).max()) / 2
    near = cKDTree(known.mean(1)).query_ball_point(asked[there].mean(1), half + reach, p=np.inf)
    for i, candidates in zip(np.flatnonzero(there), near, strict=True):
        theirs = known[candidates]
        shared = np.minimum(asked[i, 1], theirs[:, 1]) - np.maximum(asked[i, 0], theirs[:, 0])
        hit[i] = bool((shared >= -reach).all(1).any())
    return hit


def _pairs(ours: np.ndarray, first: np.ndarray, last: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(image, number of a candidate) for the candidates first..last-1 of each image, some at a time."""
    counts = last - first
    start = 0
    while start < len(ours):
        end = max(start + 1, int(np.searchsorted(np.cumsum(counts[start:]), AT_ONCE)) + start)
        some = counts[start:end]
        at = np.arange(some.sum()) - np.repeat(np.cumsum(some) - some, some)
        yield np.repeat(ours[start:end], some), np.repeat(first[start:end], some) + at
        start = end
