"""Red, green, blue, near infrared in 8 bits, tagged as GDAL tags four bytes by default: the fourth is 'alpha'.

gdal/: TIFF, PHOTOMETRIC=RGB, ExtraSamples=2 (what rasterio.open(count=4, dtype='uint8') writes, checked with 1.4.4).
png/: the same four bands as an RGBA PNG. cmyk/: the same as a TIFF tagged CMYK (the Five-Billion-Pixels set's form).
plain/: the same pixels as an honest 4-band TIFF (ExtraSamples=0). Water is dark in the fourth band, vegetation bright.
"""

import numpy as np
import tifffile
from PIL import Image

from tests.support.cases.common import CLASSES, reflectance


def make(out):
    for k, label in enumerate(CLASSES):
        for i in range(6):
            pixels = (reflectance(100 * k + i, label) / 16).clip(0, 255).astype(np.uint8)
            for form in ("gdal", "png", "cmyk", "plain"):
                folder = out / form / label
                folder.mkdir(parents=True, exist_ok=True)
                if form == "png":
                    Image.fromarray(pixels, "RGBA").save(folder / f"{i}.png")
                elif form == "cmyk":
                    tifffile.imwrite(
                        folder / f"{i}.tif", pixels, photometric="separated", planarconfig="contig", metadata=None
                    )
                else:
                    extra = {"gdal": ["unassalpha"], "plain": ["unspecified"]}[form]
                    tifffile.imwrite(
                        folder / f"{i}.tif",
                        pixels,
                        photometric="rgb",
                        planarconfig="contig",
                        extrasamples=extra,
                        metadata=None,
                    )
