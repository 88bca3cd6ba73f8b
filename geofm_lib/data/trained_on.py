"""Which images an encoder was trained on: their fingerprints (`data.overlap`), in a file beside its weights. No torch.

trained_on.npz holds digest, look and turned (uint64 [n]), contrast (float32 [n]), ground (float64 [m, 2, 2], metres of
EPSG:6933, of the images whose place is known), and whole: are these all of them? Not where the weights began from
others of which that is not known. 28 bytes an image, 60 with its place; config.json has its digest.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from geofm_lib import files
from geofm_lib.data import overlap
from geofm_lib.data.arrays import write_arrays

KEY = "trained_on"  # of config.json
GROUND = "ground"


def write(file: Path, data: Path, before: Iterable[Path] = ()) -> None:
    """Write that of an encoder that trains on the train side of a prepared folder; nothing where it has none.

    before: the same file of the encoders or runs that its weights begin from.
    """
    found, whole = [overlap.of_sides(data, ("train",))], True
    if found[0] is None:
        return
    for each in before:
        theirs = read(each)
        found += [theirs[0]] if theirs else []
        whole = whole and theirs is not None and theirs[1]
    known = [each for each in found if each]
    arrays: dict[str, Any] = {name: np.concatenate([each[name] for each in known]) for name in overlap.ARRAYS}
    arrays[GROUND] = np.concatenate([_ground(data), *(each[GROUND] for each in known if GROUND in each)])
    write_arrays(file, arrays | {"whole": np.array(whole)}, compressed=False)


def told(file: Path) -> dict[str, Any]:
    """For config.json: how many images, are these all, and the file's digest; {} where there is no file."""
    if not (found := read(file)):
        return {}
    arrays, whole = found
    return {KEY: {"images": len(arrays["digest"]), "whole": whole, "digest": files.digest(file)}}


def read(file: Path, config: dict[str, Any] | None = None) -> tuple[overlap.Arrays, bool] | None:
    """(fingerprints, are these all of them) of such a file; None where there is none.

    ValueError, one sentence, for a file that is not what its config.json means.
    """
    said = (config or {}).get(KEY)
    if not file.is_file():
        return None
    if file.name in files.sums(file.parent):
        files.prove(file.parent, [file.name])
    if said and files.digest(file) != said["digest"]:
        raise ValueError(f"{file} is not what was written beside these weights; copy the folder again.")
    try:
        with np.load(file) as saved:
            kept = [*overlap.ARRAYS, *([GROUND] if GROUND in saved.files else [])]  # an older file has none
            return {name: saved[name] for name in kept}, bool(saved["whole"])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file} cannot be read ({error}); copy the folder again.") from None


def _ground(data: Path) -> np.ndarray:
    found = overlap.ground(data, overlap.samples_of(data, ("train",)))
    return found[~np.isnan(found).any((1, 2))]
