"""One sample is a folder of single-band files of several resolutions.

bigearthnet/: BigEarthNet-S2's layout, uint16 TIFFs of 120, 60 and 20 pixels in a folder a patch, labels in a JSON beside them.
ssl4eo/: SSL4EO-S12's, location/date/B1.tif ... safe/: a Sentinel-2 product's IMG_DATA/R10m/*_B02_10m.jp2 and its quicklook.
"""

import json

import numpy as np
import tifffile
from PIL import Image

from tests.support.cases.common import CLASSES, reflectance

SIDES = {
    "B01": 20,
    "B02": 120,
    "B03": 120,
    "B04": 120,
    "B05": 60,
    "B06": 60,
    "B07": 60,
    "B08": 120,
    "B8A": 60,
    "B09": 20,
    "B11": 60,
    "B12": 60,
}


def band(seed, label, k, side):
    return reflectance(seed, label, 120, 12)[:: 120 // side, :: 120 // side, k].astype(np.uint16)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None)


def make(out):
    for n, label in enumerate(CLASSES):
        for i in range(2):
            seed = 100 * n + i
            patch = f"S2A_MSIL2A_20170613T101031_{n}_{i}"
            for k, (name, side) in enumerate(SIDES.items()):
                write(out / "bigearthnet" / patch / f"{patch}_{name}.tif", band(seed, label, k, side))
                write(out / "ssl4eo" / f"{seed:07d}" / "20200604T054639" / f"{name}.tif", band(seed, label, k, side))
            (out / "bigearthnet" / patch / f"{patch}_labels_metadata.json").write_text(
                json.dumps({"labels": [label, "Sea and ocean"]})
            )
    product = out / "safe" / "S2B_MSIL2A_20230520T104629_N0509_R051_T30UYV_20230520T152439.SAFE"
    granule = product / "GRANULE" / "L2A_T30UYV_A032395_20230520T104624"
    for folder, names, side in (
        ("R10m", ("B02", "B03", "B04", "B08"), 120),
        ("R20m", ("B02", "B03", "B04", "B05", "SCL"), 60),
        ("R60m", ("B01", "B09"), 20),
    ):
        path = granule / "IMG_DATA" / folder
        path.mkdir(parents=True)
        for k, name in enumerate(names):
            Image.fromarray(band(7, "forest", k, side)).save(path / f"T30UYV_20230520T104629_{name}_{folder[1:]}.jp2")
    Image.fromarray(np.zeros((343, 343, 3), np.uint8) + 90).save(product / "T30UYV_20230520T104629_PVI.jp2")
