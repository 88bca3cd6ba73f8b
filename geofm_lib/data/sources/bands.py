"""Bands by their names: in which order, which of them, and which are none."""

import re
from collections.abc import Mapping

# What products have beside their bands: classes, masks, previews, atmosphere. `bands` may name them all the same.
NO_BANDS = frozenset(
    "SCL TCI PVI AOT WVP CLD SNW CLDPRB SNWPRB MSK QA QA60 QA_PIXEL QA_RADSAT CLM CLP DATAMASK".split()
)
CLEAR = 2 / 3  # of the samples have a band: it is wanted; of less than 1 - CLEAR: it is left out; between, it is asked


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which B2 comes before B10, and B8A between B08 and B09.

    >>> sorted(["B10", "B8A", "B09", "B2", "B08"], key=natural)
    ['B2', 'B08', 'B8A', 'B09', 'B10']
    """
    return [(int(digits or -1), text.lower()) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def order(text: str) -> list[str]:
    """The names in the setting `bands`. Raises ValueError, one sentence, for an empty or a repeated one."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    if "" in names:
        raise ValueError(f"bands: '{text}' has an empty name; write names with commas between them, as in B04,B03,B02")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"bands: '{text}' names {', '.join(sorted(twice))} twice; name each band once")
    return names


def choose(counts: Mapping[str, int], samples: int, text: str = "") -> tuple[list[str], list[str]]:
    """(bands to stack in their order, those left out). counts: band -> samples that have it. text: setting `bands`.

    Raises ValueError, one sentence, for unknown bands, and where it is not clear which are meant.
    """
    there = sorted(counts, key=natural)
    if names := order(text):
        spelled = {name.lower(): name for name in there}
        if unknown := [name for name in names if name.lower() not in spelled]:
            raise ValueError(f"bands: there is no {', '.join(unknown)}; the files have {few(there)}")
        chosen = [spelled[name.lower()] for name in names]
    else:
        chosen = [name for name in there if counts[name] >= CLEAR * samples and name.upper() not in NO_BANDS]
        doubtful = [name for name in there if (1 - CLEAR) * samples < counts[name] < CLEAR * samples]
        if doubtful and not chosen or any(name.upper() not in NO_BANDS for name in doubtful):
            raise ValueError(
                f"pattern: only {counts[doubtful[0]]} of {samples} samples have the band {doubtful[0]}; say which to "
                f"stack, such as bands={','.join(chosen or doubtful)}, or make the pattern narrower"
            )
    if not chosen:
        raise ValueError(
            f"pattern: no {{band}} is in most of the {samples} samples ({few(there)}); {{band}} must be the text in "
            "which the files of one sample differ"
        )
    return chosen, [name for name in there if name not in chosen]


def few(names: list[str]) -> str:
    """Names with commas between them, some of them where they are many."""
    return ", ".join(names if len(names) < 20 else [*names[:18], "...", names[-1]])
