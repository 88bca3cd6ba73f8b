"""Labels that are no folders. csv/: images/*.png and labels.csv (name,label). multilabel/: labels.csv with several a row.

wds/: webdataset shards 000000.tar, 000001.tar of <key>.png, <key>.cls. wds_one/: one such tar. zips/: a zip a class.
names/: water_001.png in one flat folder (UC Merced and PatternNet names).
"""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

from tests.support.cases.common import CLASSES, soft


def png(seed):
    file = io.BytesIO()
    Image.fromarray((128 + 40 * soft(seed, 32, 3)).clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def make(out):
    for name in ("csv/images", "multilabel/images", "wds", "wds_one", "zips", "names"):
        (out / name).mkdir(parents=True, exist_ok=True)
    rows, several, samples = ["image,label"], ["image,labels"], []
    for k, label in enumerate(CLASSES):
        with zipfile.ZipFile(out / "zips" / f"{label}.zip", "w") as archive:
            for i in range(6):
                data = png(100 * k + i)
                for folder in ("csv", "multilabel"):
                    (out / folder / "images" / f"chip{k}{i}.png").write_bytes(data)
                (out / "names" / f"{label}_{i:03d}.png").write_bytes(data)
                archive.writestr(f"{label}/{i}.png", data)
                rows.append(f"chip{k}{i}.png,{label}")
                several.append(f"chip{k}{i}.png,{label};{CLASSES[(k + i) % 3]}")
                samples += [(f"{k}{i:04d}.png", data), (f"{k}{i:04d}.cls", str(k).encode())]
    (out / "csv" / "labels.csv").write_text("\n".join(rows) + "\n")
    (out / "multilabel" / "labels.csv").write_text("\n".join(several) + "\n")
    for path, part in (
        (out / "wds" / "000000.tar", samples[:18]),
        (out / "wds" / "000001.tar", samples[18:]),
        (out / "wds_one" / "all.tar", samples),
    ):
        with tarfile.open(path, "w") as archive:
            for name, data in part:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
