"""Arrays in a file that is there whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geofm_lib import files


def write_arrays(file: str | Path, arrays: Mapping[str, Any], compressed: bool = True) -> None:
    """Write an .npz of arrays by their names."""
    with files.whole(file) as fresh, open(fresh, "wb") as stream:
        (np.savez_compressed if compressed else np.savez)(stream, **arrays)


def write_array(file: str | Path, array: np.ndarray) -> None:
    """Write an .npy of one array."""
    with files.whole(file) as fresh, open(fresh, "wb") as stream:
        np.save(stream, array)
