"""GeoTIFFs as GDAL writes them: every type, number of bands, layout and compression, and the odd ones among them."""

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling

SIDE = 32
LAYOUTS = {
    "strips": {"blockysize": 8},
    "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "planar": {"interleave": "band"},
}
PACKED = {
    "plain": {},
    "LZW": {"compress": "lzw"},
    "LZW differences": {"compress": "lzw", "predictor": 2},
    "DEFLATE": {"compress": "deflate"},
    "DEFLATE differences": {"compress": "deflate", "predictor": 2},
    "ZSTD": {"compress": "zstd"},
    "LERC": {"compress": "lerc"},
    "LERC ZSTD": {"compress": "lerc_zstd"},
    "PACKBITS": {"compress": "packbits"},
    "LZMA": {"compress": "lzma"},
}
GEO = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_400_000)}


def values(kind: str, bands: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Smooth numbers of a type with negatives where it has them, [C, side, side], nowhere at a type's extreme."""
    random = np.random.default_rng([seed, bands])
    soft = np.kron(random.normal(0, 1, (bands, 4, 4)), np.ones((side // 4, side // 4)))
    soft += 0.3 * random.normal(0, 1, soft.shape)
    kind_of = np.dtype(kind.replace("complex_int16", "complex64"))
    if kind_of.kind in "fc":
        return (soft * 3 - 11).astype(kind_of)
    level = {"uint8": (120, 25), "int8": (-10, 20)}.get(kind, (1500, 300) if kind_of.kind == "u" else (20, 1500))
    limits = np.iinfo(kind_of)
    return (level[0] + soft * level[1]).clip(max(limits.min, -30000) + 1, limits.max - 1).astype(kind_of)


def write(
    pixels: np.ndarray, mask: np.ndarray | None = None, palette=None, colours=None, overviews=(), pages=1, **options
) -> bytes:
    """[C, H, W] as the bytes of a GeoTIFF with GDAL's creation options. mask: bool [H, W], kept inside."""
    bands, height, width = pixels.shape
    options = (
        {"driver": "GTiff", "dtype": pixels.dtype.name, "count": bands, "height": height, "width": width}
        | GEO
        | options
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore")
        path = Path(folder) / "x.tif"
        for page in range(pages):
            with rasterio.open(path, "w", **options | ({"APPEND_SUBDATASET": "YES"} if page else {})) as file:
                if palette:
                    file.write_colormap(1, palette)
                if colours:
                    file.colorinterp = colours
                if options.get("sparse_ok"):
                    file.write(pixels[:, :16, :16], window=rasterio.windows.Window(0, 0, 16, 16))
                else:
                    file.write(pixels)
                if mask is not None:
                    file.write_mask(mask)
        if overviews:
            with rasterio.open(path, "r+") as file:
                file.build_overviews(overviews, Resampling.nearest)
        return path.read_bytes()


def product(every: int = 1) -> Iterator[tuple[str, bytes]]:
    """The usual: (what it is, bytes), one in `every` of them."""
    kinds, counts = ("uint8", "uint16", "int16", "float32"), (1, 2, 3, 4, 6, 13)
    rows = enumerate(itertools.product(kinds, counts, LAYOUTS, PACKED))
    for k, (kind, bands, layout, packed) in itertools.islice(rows, 0, None, every):
        options = PACKED[packed]
        if kind == "float32" and options.get("predictor"):
            options = options | {"predictor": 3}
        rgb = {"photometric": "minisblack"} if bands == 4 else {}  # else GDAL calls the fourth of uint8 transparency
        yield (
            f"{kind} x {bands}, {layout}, {packed}",
            write(values(kind, bands, k), **LAYOUTS[layout], **options, **rgb),
        )


def odd() -> Iterator[tuple[str, bytes]]:
    """The rest that GDAL can write."""
    eight, sixteen = values("uint8", 3), values("uint16", 4)
    clear = np.ones((SIDE, SIDE), bool)
    clear[:10] = False
    for big, order in itertools.product(("YES", "NO"), ("LITTLE", "BIG")):
        yield f"BigTIFF {big}, {order} endian", write(sixteen, bigtiff=big, endianness=order)
    for photometric in ("rgb", "miniswhite", "minisblack"):
        yield f"photometric {photometric}", write(eight if photometric == "rgb" else eight[:1], photometric=photometric)
        yield (
            f"16 bits {photometric}",
            write(sixteen[:3] if photometric == "rgb" else sixteen[:1], photometric=photometric),
        )
    for packed in ("LZW", "PACKBITS"):
        yield f"photometric miniswhite, {packed}", write(eight[:1], photometric="miniswhite", **PACKED[packed])
    yield "CMYK", write(values("uint8", 4), photometric="cmyk")
    yield "CMYK of 16 bits", write(sixteen, photometric="cmyk")
    for bands in (1, 3, 4):
        yield f"JPEG, {bands} bands", write(values("uint8", bands), compress="jpeg", photometric="minisblack")
    yield "JPEG in YCbCr", write(eight, compress="jpeg", photometric="ycbcr")
    yield "JPEG in YCbCr, tiles", write(eight, compress="jpeg", photometric="ycbcr", **LAYOUTS["tiles"])
    yield "JPEG of 12 bits", write(values("uint16", 1), compress="jpeg", nbits=12)
    for bands in (3, 4):
        yield f"WEBP, {bands} bands", write(values("uint8", bands), compress="webp", webp_lossless=True)
        yield f"WEBP with losses, {bands} bands", write(values("uint8", bands), compress="webp", webp_lossless=False)
    for bits in (1, 2, 3, 4, 5, 6, 7):
        yield f"{bits} bits", write(values("uint8", 2) % 2**bits, nbits=bits)
    for bits in (9, 10, 11, 12, 13, 14, 15):
        yield f"{bits} bits", write(values("uint16", 2) % 2**bits, nbits=bits)
        yield (
            f"{bits} bits, LZW tiles",
            write(values("uint16", 5) % 2**bits, nbits=bits, compress="lzw", **LAYOUTS["tiles"]),
        )
    yield "float of 16 bits", write(values("float32", 2), nbits=16)
    for kind in ("int8", "uint32", "int32", "float64", "uint64", "int64"):
        for bands in (1, 3):
            yield f"{kind} x {bands}", write(values(kind, bands), compress="deflate")
    yield "uint32 beyond 24 bits", write(values("uint32", 2) + 2**25)
    for kind in ("complex64", "complex128"):
        yield kind, write(values(kind, 1))
    yield "complex_int16", write(values("complex_int16", 1), dtype="complex_int16")
    for kind, nodata in (
        ("uint8", 0),
        ("uint16", 65535),
        ("uint16", 0),
        ("int16", -9999),
        ("float32", -9999),
        ("float32", float("nan")),
        ("float64", -1.7976931348623157e308),
        ("int32", -(2**31)),
    ):
        for bands in (1, 3):
            pixels = values(kind, bands)
            pixels[:, :9] = nodata
            yield f"{kind} x {bands}, nodata {nodata}", write(pixels, nodata=nodata)
    for kind in ("uint8", "uint16", "float32"):
        for packed in ("plain", "DEFLATE"):
            yield f"mask, {kind}, {packed}", write(values(kind, 3), clear, **PACKED[packed])
    yield "mask, JPEG", write(eight, clear, compress="jpeg", photometric="ycbcr")
    for kind in ("uint8", "uint16", "int16", "float32"):
        yield f"sparse tiles, {kind}", write(values(kind, 3), sparse_ok=True, **LAYOUTS["tiles"])
        yield f"sparse tiles, {kind}, nodata", write(values(kind, 3), sparse_ok=True, nodata=7, **LAYOUTS["tiles"])
    colours = {k: (k, 255 - k, k // 2, 255) for k in range(256)}
    yield "palette", write(values("uint8", 1), palette=colours)
    yield "palette, LZW", write(values("uint8", 1), palette=colours, compress="lzw")
    yield "palette with a clear colour", write(values("uint8", 1), palette=colours | {120: (0, 0, 0, 0)})
    yield "palette of 4 bits", write(values("uint8", 1) % 16, palette={k: colours[k] for k in range(16)}, nbits=4)
    near_infrared, full = values("uint8", 4), values("uint8", 4)
    full[3] = 255
    masked = full.copy()
    masked[3, :10] = 0
    for name, pixels in (("near infrared", near_infrared), ("full", full), ("a mask", masked)):
        for packed in ("plain", "LZW"):
            yield f"fourth band called alpha: {name}, {packed}", write(pixels, **PACKED[packed])
    with_alpha = sixteen.copy()
    with_alpha[3] = np.where(clear, 65535, 0)
    red_to_alpha = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    yield "16 bits with alpha", write(with_alpha, colours=red_to_alpha, alpha="yes", photometric="rgb")
    last_is_alpha = [ColorInterp.undefined] * 12 + [ColorInterp.alpha]
    yield "alpha behind 12", write(np.concatenate([values("uint8", 12), masked[3:]]), colours=last_is_alpha)
    for kind in ("uint8", "uint16", "float32"):
        for packed in ("DEFLATE", "ZSTD", "LERC"):
            yield (
                f"COG, {kind}, {packed}",
                write(values(kind, 3, side=64), driver="COG", compress=packed.split()[0], blocksize=128),
            )
        yield f"overviews, {kind}", write(values(kind, 2, side=64), overviews=[2, 4])
    yield "two pages", write(sixteen[:1], pages=2)
    yield "two pages of three bands", write(sixteen[:3], pages=2)
    yield "without georeference", write(sixteen, crs=None, transform=rasterio.Affine.identity())
    yield "lines across", write(values("uint16", 2).swapaxes(1, 2), blockysize=1)
