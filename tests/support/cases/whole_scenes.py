"""Whole scenes instead of chips. big/: three 4-band uint16 scenes of 2000 x 2000 (a Planet or Landsat scene in small) with
checkered ground of 16-pixel fields. rgb/: one 8-bit RGB scene of 13400 x 13400 (more than Pillow's 178,956,970 pixels).
tile/: one 4-band scene of a Sentinel-2 tile's size, 10980 x 10980, DEFLATE in tiles of 512 (made only with tile=True)."""

import numpy as np
import tifffile


def ground(side, seed, bands=4):
    random = np.random.default_rng(seed)
    fields = random.integers(300, 3000, (side // 16 + 1, side // 16 + 1, bands), dtype=np.uint16)
    return fields.repeat(16, 0).repeat(16, 1)[:side, :side]


def make(out, tile=False):
    for name in ("big", "rgb"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for i in range(3):
        tifffile.imwrite(
            out / "big" / f"scene{i}.tif",
            ground(2000, i),
            photometric="minisblack",
            planarconfig="contig",
            compression="zlib",
        )
    wide = np.repeat(np.repeat((ground(840, 9, 3) // 16).astype(np.uint8), 16, 0), 16, 1)[:13400, :13400]
    tifffile.imwrite(out / "rgb" / "ortho.tif", wide, photometric="rgb", compression="zlib", rowsperstrip=64)
    if tile:
        (out / "tile").mkdir(exist_ok=True)
        tifffile.imwrite(
            out / "tile" / "T30UYV.tif",
            ground(10980, 5),
            photometric="minisblack",
            planarconfig="contig",
            compression="zlib",
            tile=(512, 512),
        )
