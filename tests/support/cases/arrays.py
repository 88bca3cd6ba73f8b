"""Chips as arrays. npy/: class folders of .npy only. mixed/: the same beside two preview .jpg a class. suffixes/: the names
.geotiff .j2k .jfif .avif .img .vrt and none, beside one .tif a class. npz, h5 and zarr are such files as well."""

import numpy as np
import tifffile
from PIL import Image

from tests.support.cases.common import CLASSES, reflectance


def make(out):
    for k, label in enumerate(CLASSES):
        for i in range(20):
            pixels = reflectance(100 * k + i, label).astype(np.uint16)
            for form in ("npy", "mixed"):
                (out / form / label).mkdir(parents=True, exist_ok=True)
                np.save(out / form / label / f"{i}.npy", np.moveaxis(pixels, -1, 0))
            if i < 2:
                Image.fromarray((pixels[..., :3] // 16).clip(0, 255).astype(np.uint8)).save(
                    out / "mixed" / label / f"preview{i}.jpg"
                )
            folder = out / "suffixes" / label
            folder.mkdir(parents=True, exist_ok=True)
            end = (".tif", ".tif", ".geotiff", ".gtiff", ".TIFF", ".cog", "")[i % 7]
            tifffile.imwrite(folder / f"{i}{end}", pixels, photometric="minisblack", planarconfig="contig")
