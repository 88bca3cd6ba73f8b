"""uint16 chips at the edge of a swath: GDAL_NODATA says 65535 (or 0), a third of some chips is that value, some are nothing else.

fill65535/ and fill0/ with, clean/ without those pixels (the same chips, nothing filled).
"""

import numpy as np
import tifffile

from tests.support.cases.common import CLASSES, reflectance


def make(out):
    for k, label in enumerate(CLASSES):
        for i in range(8):
            clean = reflectance(100 * k + i, label).astype(np.uint16)
            for form, fill in (("clean", None), ("fill65535", 65535), ("fill0", 0)):
                folder = out / form / label
                folder.mkdir(parents=True, exist_ok=True)
                pixels = clean.copy()
                if fill is not None and i < 4:
                    pixels[: 32 if i == 0 else 11] = fill
                tags = [] if fill is None else [(42113, "s", 0, str(fill), True)]
                tifffile.imwrite(
                    folder / f"{i}.tif",
                    pixels,
                    photometric="minisblack",
                    planarconfig="contig",
                    extratags=tags,
                    metadata=None,
                )
