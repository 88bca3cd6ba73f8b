"""Data sets that torchvision can fetch, for those who have a network."""

import os
from pathlib import Path

from geofm_lib.catalog import datasets


def fetch(name: str, folder: Path) -> Path:
    """The folder with the images of a data set of `datasets.DOWNLOADS`, below `folder`; downloaded once.

    Raises ValueError, one sentence, when it cannot be fetched.
    """
    if folder.is_dir():
        return folder
    from torchvision.datasets import EuroSAT

    beside = folder.with_name(folder.name + ".part")  # an archive that was half unpacked must not look complete
    try:
        EuroSAT(beside, download=True)
    except (OSError, RuntimeError) as error:  # no network, no space, or a checksum that differs
        card = datasets.DATASETS[name]
        raise ValueError(
            f"dataset: {card.title} cannot be downloaded ({error}); get it from {card.where} and give the path of its "
            f"folder, tar or zip"
        ) from None
    for archive in beside.glob("*/*.zip"):
        archive.unlink()
    os.replace(beside, folder)
    return folder
