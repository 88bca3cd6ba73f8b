"""Which pixels were measured: by declared values, masks and alpha, and by fill that nothing declares."""

from collections.abc import Sequence

import numpy as np

from geofm_lib.data.sources.item import FULL

# Values that mean "nothing here" though the file does not say so. Zero counts only with several bands: one band alone
# may well be zero (the sea of a height model).
_WHOLE, _FLOAT = (-9999, -32768, -99999), (1e20, -1e20)
FILLS: dict[str, tuple[float, ...]] = {
    "uint16": (65535, 0),
    "int16": (-9999, -32768, 32767, 0),
    "uint32": (2**32 - 1, 0),
    "int32": (*_WHOLE, -(2**31), 2**31 - 1, 0),
    "float32": (*_WHOLE, *_FLOAT, 0),
    "float64": (*_WHOLE, *_FLOAT, 0),
}
# No measurement is so large: the ends of float32 and float64, netCDF's 9.97e36 and every rounding of them are fill.
BEYOND, NAMED = 1e30, 3  # the size from which a number is fill; so many different ones are told by their value
# Those that a band can also measure, dark or saturated: they count where all bands of a pixel hold them. Of the others
# one band is enough.
MEASURABLE = (0, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)
LEAST_FILL = 0.01  # share of an image's pixels: fewer are chance
MASK_LIKE = 0.99  # share of an alpha band that is 0 or full


def split_alpha(
    bands: np.ndarray, colours: Sequence[str], alpha: str = "auto"
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """[H, W, C] -> (bands, where they were measured by their alpha band or None, what was done).

    The alpha band is the one that the file calls so; with alpha="mask" also the fourth of four. "auto": it is a band
    like any other unless it looks like a mask.
    """
    at = list(colours).index("alpha") if "alpha" in colours else -1
    if at < 0 and alpha == "mask" and bands.shape[-1] == 4:
        at = 3
    if at < 0 or alpha == "keep" or bands.shape[-1] < 2:
        return bands, None, ""
    clear, others = bands[..., at], np.delete(bands, at, axis=-1)
    if alpha == "auto" and not looks_like_mask(clear, others):
        return bands, None, ""
    seen, full = clear != 0, clear.max() in (FULL.get(clear.dtype.name, 255), 255)
    if (seen & (clear != clear.max() if full else seen)).any():
        return others, seen, "alpha dropped: partly clear pixels count as measured"
    return others, seen, "" if not seen.all() else "full alpha dropped"


def looks_like_mask(clear: np.ndarray, others: np.ndarray) -> bool:
    """Is an alpha band [H, W] nearly only 0 and full, or 0 everywhere over an image without a picture [H, W, C]?"""
    most = clear.max()
    if most == 0:
        return bool((others == others[0, 0]).all())
    if most not in (FULL.get(clear.dtype.name, 255), 255):
        return False
    return float(((clear == 0) | (clear == most)).mean()) >= MASK_LIKE


def measured(
    bands: np.ndarray,
    declared: Sequence[float | None],
    mask: np.ndarray | None,
    by_alpha: np.ndarray | None,
    nodata: str,
) -> tuple[np.ndarray | None, list[str]]:
    """(where all of a pixel [H, W, C] was measured or None for everywhere, why the rest was not).

    declared: of each band by its file. mask: of the file, as by_alpha: where it was measured. nodata: as in
    `verify.Fit`. NaN, infinity and what is BEYOND are never measurements.
    """
    missing: dict[str, np.ndarray] = {}
    impossible = beyond(bands)
    if impossible.any():
        missing["NaN"], missing["infinity"] = np.isnan(bands).any(-1), np.isinf(bands).any(-1)
        impossible &= np.isfinite(bands)
    if by_alpha is not None:
        missing["alpha"] = ~by_alpha
    values: Sequence[float | None] = ()
    if nodata != "none":
        if mask is not None:
            missing["mask"] = ~mask
        values = [float(nodata)] * bands.shape[-1] if nodata else declared
        missing[" ".join(sorted({f"{value:g}" for value in values if value is not None}))] = _holds(bands, values)
    if impossible.any():
        told = np.unique(bands[impossible])
        name = " ".join(f"{value:g}" for value in told) if len(told) <= NAMED else f"numbers beyond {BEYOND:g}"
        missing[f"fill of {name}"] = impossible.any(-1) & ~np.logical_or.reduce(list(missing.values()))
    if nodata == "":
        low, high = bands.min(), bands.max()  # much faster than looking for each fill; NaN compares with nothing
        for fill in FILLS.get(bands.dtype.name, ()):
            known = all(value is not None and bands.dtype.type(fill) == value for value in values)
            if known or fill == 0 and bands.shape[-1] == 1 or fill < low or fill > high:
                continue
            if fill not in MEASURABLE or (bands[..., 0] == fill).mean() >= LEAST_FILL:
                found = filled(bands, fill)
                if found.mean() >= LEAST_FILL:
                    missing[f"fill of {fill:g}"] = found & ~missing.get(f"{fill:g}", np.False_)
    reasons = {why: where for why, where in missing.items() if where.any()}
    if not reasons:
        return None, []
    lost = np.logical_or.reduce(list(reasons.values()))
    return ~lost, [f"not measured: {why}" for why in reasons]


def beyond(bands: np.ndarray) -> np.ndarray:
    """Which numbers no measurement can be: NaN, infinity, and those of a size BEYOND any. bool, of the same shape."""
    if bands.dtype.kind != "f":
        return np.zeros(bands.shape, bool)
    with np.errstate(over="ignore"):  # float16 ends before
        return ~(np.abs(bands) < bands.dtype.type(BEYOND))


def filled(bands: np.ndarray, fill: float) -> np.ndarray:
    """Where pixels [..., C] hold a fill that nothing declares: bool [...]."""
    hits = bands == fill
    return hits.all(-1) if fill in MEASURABLE else hits.any(-1)


def _holds(bands: np.ndarray, values: Sequence[float | None]) -> np.ndarray:
    """Where pixels [H, W, C] hold the nodata values of their bands: bool [H, W].

    One band is enough, since a pixel counts only where all of it was measured (at the edge of a swath bands end one
    after the other). But zero, and any value of 8 bits, are numbers that also occur: they count where every band has
    its value.
    """
    known = [_as(bands.dtype, value) for value in values]
    if all(value is None for value in known):
        return np.zeros(bands.shape[:2], bool)
    hits = [np.zeros(bands.shape[:2], bool) if v is None else bands[..., k] == v for k, v in enumerate(known)]
    occurs = bands.dtype == np.uint8 or all(value in (None, 0) for value in known)
    return np.logical_and.reduce(hits) if occurs else np.logical_or.reduce(hits)


def _as(kind: np.dtype, value: float | None) -> np.generic | None:
    """The number in a type, None where the type has no such number (NaN is looked for apart)."""
    if value is None or not np.isfinite(value):
        return None
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return kind.type(value)
    limits = np.iinfo(kind)
    return kind.type(int(value)) if float(value).is_integer() and limits.min <= value <= limits.max else None
