"""Things a copied data set brings along: .DS_Store, Thumbs.db, ._x.jpg, __MACOSX, .ipynb_checkpoints, upper-case suffixes,
blanks, brackets, Chinese and accents in class names, a linked class folder, EXIF rotation, grey, one-image class, a
duplicate, a non-square and a tiny picture. set.zip is the same as macOS packs it."""

import zipfile

import numpy as np
from PIL import Image

from tests.support.cases.common import soft


def picture(seed, size=(32, 32)):
    return Image.fromarray((128 + 40 * soft(seed, 64, 3)).clip(0, 255).astype(np.uint8)[: size[1], : size[0]])


def make(out):
    root = out / "set"
    names = ("Dense Residential (2)", "耕地", "forêt", "water,#1%")
    for k, label in enumerate(names):
        (root / label).mkdir(parents=True)
        for i in range(6):
            picture(100 * k + i).save(root / label / f"IMG {i}.JPG", "JPEG", quality=95)
        (root / label / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (root / label / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        (root / label / "._IMG 0.JPG").write_bytes(b"\0\5\x16\7")
        (root / label / ".ipynb_checkpoints").mkdir()
        picture(5).save(root / label / ".ipynb_checkpoints" / "IMG 0-checkpoint.png")
    (root / "desktop.ini").write_text("[.ShellClassInfo]")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(900, (48, 32)).save(root / "forêt" / "turned.jpg", exif=exif.tobytes())
    picture(901).convert("L").save(root / "forêt" / "grey.png")
    picture(902, (64, 20)).save(root / "forêt" / "wide.png")
    picture(903, (9, 9)).save(root / "forêt" / "tiny.png")
    (root / "only one").mkdir()
    picture(904).save(root / "only one" / "a.png")
    (root / "forêt" / "twin.png").write_bytes((root / "only one" / "a.png").read_bytes())
    (root / "linked").symlink_to((out / "elsewhere").resolve())
    (root / "moved away").symlink_to(
        (out / "no longer there").resolve()
    )  # a class folder on a disk that is not mounted
    (out / "elsewhere").mkdir()
    for i in range(4):
        picture(800 + i).save(out / "elsewhere" / f"{i}.png")
    with zipfile.ZipFile(out / "set.zip", "w") as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                archive.write(path, f"set/{path.relative_to(root)}")
                archive.writestr(f"__MACOSX/set/{path.relative_to(root).parent}/._{path.name}", b"\0\5\x16\7")
