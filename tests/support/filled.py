"""EuroSAT's chips with rows that were not measured: 65535 in 20 of 64 rows of every tenth chip."""

import io
import os
import tarfile
from pathlib import Path

import pytest
import tifffile

FILL, ROWS, EVERY = 65535, 20, 10
NODATA = 42113  # GDAL's tag
needed = pytest.mark.skipif(
    "GEOFM_TEST_DATA" not in os.environ, reason="GEOFM_TEST_DATA names no folder of real images"
)


def make(folder: Path, form: str) -> Path:
    """Class folders of the 100 chips; form: "clean", "declared" (by GDAL_NODATA) or "undeclared"."""
    with tarfile.open(Path(os.environ["GEOFM_TEST_DATA"]) / "eurosat100_ms.tar") as archive:
        chips = sorted((member for member in archive if member.name.endswith(".tif")), key=lambda member: member.name)
        for number, member in enumerate(chips):
            pixels = tifffile.imread(io.BytesIO(archive.extractfile(member).read()))
            if form != "clean" and number % EVERY == 0:
                pixels[-ROWS:] = FILL
            tags = [(NODATA, "s", 0, str(FILL), True)] if form == "declared" else []
            path = folder / Path(member.name).parent.name / Path(member.name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", extratags=tags)
    return folder
