"""float32 GeoTIFF chips: Sentinel-1 VV/VH in dB with NaN at the border; surface reflectance 0..1 with nodata -9999.

sar/: 2 bands float32. reflectance/: 6 bands float32 (HLS as Prithvi takes it), GDAL_NODATA -9999. single/: 1 band float32.
"""

import numpy as np
import tifffile

from tests.support.cases.common import CLASSES, reflectance, soft

NODATA = 42113


def make(out):
    for k, label in enumerate(CLASSES):
        for i in range(6):
            seed = 100 * k + i
            db = np.array([-11.0, -18.0]) + 3 * k + soft(seed, 32, 2) * 2
            db[:, :2] = np.nan
            optical = reflectance(seed, label, 32, 6) / 10000
            optical[:3] = -9999
            for form, pixels, tags in (
                ("sar", db, [(NODATA, "s", 0, "nan", True)]),
                ("reflectance", optical, [(NODATA, "s", 0, "-9999", True)]),
                ("single", db[..., :1], []),
            ):
                folder = out / form / label
                folder.mkdir(parents=True, exist_ok=True)
                pixels = pixels.astype(np.float32)
                pixels = pixels[..., 0] if form == "single" else pixels
                tifffile.imwrite(
                    folder / f"{i}.tif",
                    pixels,
                    photometric="minisblack",
                    planarconfig=None if form == "single" else "contig",
                    extratags=tags,
                    metadata=None,
                )
