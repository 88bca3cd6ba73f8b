"""Files whose names say that they are parts of one image: single bands, and the pattern that puts them together."""

import os
import re
from collections import Counter
from collections.abc import Iterable

MOST = 0.8  # of the images must be such bands
_BAND = re.compile(
    r"(?:(?<=[_.-])|^)(?:b\d{1,2}a?|band[_-]?\d{1,2}|red|green|blue|nir|swir[_-]?\d?|red_?edge\d?|pan|vv|vh|hh|hv)(?=[_.-]|$)",
    re.IGNORECASE,
)


def bands(names: Iterable[str]) -> str:
    """A sentence where most images are bands of samples, by their names, "" where they are not.

    >>> bands(f"{patch}/{patch}_{band}.tif" for patch in ("p1", "p2") for band in ("B02", "B03"))[:90]
    "4 images look like single bands, such as 'p1/p1_B02.tif': pattern={patch}/*_{band}.tif sta"
    """
    total, ends = 0, Counter[tuple[str, str]]()  # the pattern of a file's name up to its band, and what follows
    samples: dict[tuple[str, str, str], set[str]] = {}
    for name in names:
        total += 1
        folder, _, file = name.rpartition("/")
        stem, suffix = os.path.splitext(file)
        if found := list(_BAND.finditer(stem)):
            before, after = stem[: found[-1].start()], stem[found[-1].end() :] + suffix
            samples.setdefault((folder, before, after), set()).add(found[-1][0])
            ends[f"{'*' if before else ''}{before[-1:]}{{band}}", after] += 1
    several = {key: found for key, found in samples.items() if len(found) > 1}
    if not several or sum(map(len, several.values())) < MOST * total:
        return ""
    begin, after = max((key for key in ends if any(end == key[1] for _, _, end in several)), key=lambda key: ends[key])
    folders = [folder for folder, _, end in several if end == after]
    # A folder for each sample, side by side, is a field; where they are deeper, the file's name alone is looked at.
    own = 1 < len(folders) == len(set(folders)) and len({os.path.dirname(folder) for folder in folders}) == 1
    folder, before, _ = next(key for key in several if key[2] == after)
    example = f"{folder}/{before}{min(several[folder, before, after])}{after}".lstrip("/")
    text = f"{'{patch}/' if own else ''}{begin}{after}"
    return f"{total} images look like single bands, such as '{example}': pattern={text} stacks those of each sample"
