"""What the names of files give away: a band each, or a label before a number."""

import re
from collections import Counter
from collections.abc import Sequence

from geofm_lib.data.sources import guards, masks, pattern, sides

SAMPLE, MOST_MASKS = 20_000, 50_000  # names looked at, for bands and labels, and for masks
BLOCK = 1000  # names that lie beside each other, of which all are looked at
MOST = 0.9  # of the names must read so
_BAND = re.compile(
    r"(?P<id>.*?)(?P<gap>^|[_.-])(?P<band>b\d{1,2}a?|band_?\d{1,2}|red|green|blue|nir\d?|swir\d?|vv|vh|hh|hv|rededge\d?|scl|tci|aot|wvp|pvi)"
    r"(?P<rest>[_-]\d+m)?",
    re.I,
)
_NUMBERED = re.compile(r"(?P<label>.*[^\W\d_]\)?)(?P<gap>[_ -]?)\(?(?P<number>\d+)\)?")


def bands(names: Sequence[str]) -> str:
    """The pattern of names that are one band each, those of the finest ground sampling; "" for others.

    >>> bands(["p1/p1_B02.tif", "p1/p1_B03.tif"]), bands(["x/2020/B1.tif", "x/2020/B2.tif"]), bands(["a_red.jpg"])
    ('{id}_{band}.tif', '{place}/*/{band}.tif', '')
    """
    found: Counter[tuple[str, str]] = Counter()
    seen: dict[str, set[str]] = {}  # metres, as text -> bands
    some = _some(names)
    for name in some:
        folder, stem, suffix = _parts(name)
        if match := _BAND.fullmatch(stem):
            found[match["id"] and match["gap"], suffix] += 1
            seen.setdefault(match["rest"] or "", set()).add(match["band"].lower())
    several = [rest for rest, bands in seen.items() if len(bands) > 1]
    if not several or sum(found.values()) < MOST * len(names):
        return ""
    gap, suffix = max(found, key=lambda key: found[key])
    rest = min(several, key=lambda rest: int(re.sub(r"\D", "", rest) or 0))  # the finest
    return _first_without_clash(names, gap, rest, suffix)


def _first_without_clash(names: Sequence[str], gap: str, rest: str, suffix: str) -> str:
    """The first pattern that takes these very names, each band of a sample once; the last tells any two paths apart."""
    depth = names[0].count("/")
    inner = "/".join(["{place}", *["*"] * (depth - 1)]) + "/" if depth else ""
    starts = [f"{{id}}{gap}", _levels(names) + f"{{id}}{gap}", f"**/*{gap}"] if gap else [inner, "**/"]
    texts = [f"{start}{{band}}{rest}{suffix}" for start in starts]
    wanted = [name for name in names if (match := _BAND.fullmatch(_parts(name)[1])) and (match["rest"] or "") == rest]
    return next((text for text in texts if _fits(text, wanted)), texts[-1])


def _fits(text: str, names: Sequence[str]) -> bool:
    """Does the pattern take most of the names, and none of them for the same band of the same sample as another?"""
    try:
        template = pattern.parse(text)
    except ValueError:  # a name with a brace or a star
        return False
    found = [(match.sample(), match.fields["band"].lower()) for match in map(template.match, names) if match]
    return len(found) >= MOST * len(names) and len(set(found)) == len(found)


def _levels(names: Sequence[str]) -> str:
    """The folders above files, as fields of a pattern: sides, classes of known data sets, else places."""
    fields: list[str] = []
    for k in range(names[0].count("/")):
        values = Counter(name.split("/")[k] for name in names if name.count("/") > k)
        meant = "side" if all(map(sides.side_of, values)) else "label" if guards.known(sorted(values)) else "place"
        free = f"{{{meant if f'{{{meant}}}' not in fields else f'folder{k + 1}'}}}"
        fields.append(free if len(values) > 1 else "*")
    return "".join(f"{field}/" for field in fields)


def refuse_bands(names: Sequence[str]) -> None:
    """Raise ValueError, one sentence, where each file is one band of a sample: images they are not."""
    if pattern := bands(names):
        raise ValueError(
            f"dataset: each file looks like one band of a sample, such as '{names[0]}'; pattern='{pattern}' stacks "
            "those of a sample, pattern='*' takes each file as an image"
        )


def refuse_masks(names: Sequence[str]) -> None:
    """Raise ValueError, one sentence, where masks lie among the images, or beside them."""
    found, images = masks.find(_some(names, MOST_MASKS))
    if found:
        raise ValueError(
            f"dataset: files such as '{found[0]}' look like masks of images such as '{images[0]}', not like images; "
            f"{masks.way_out(found, images)}, labels=masks takes both for 08, pattern='*' takes each file as an image"
        )


def label(names: Sequence[str]) -> tuple[list[str], str]:
    """(what looks like labels before the numbers of file names, the pattern that takes them, "" where none can).

    >>> label(["water_1.png", "water_2.png", "forest_1.png", "forest_2.png"])
    (['forest', 'water'], '{label}_{n}.png')
    """
    found: Counter[str] = Counter()
    gaps, suffixes = set(), set()
    some = _some(names)
    for name in some:
        _, stem, suffix = _parts(name)
        if match := _NUMBERED.fullmatch(stem):
            found[match["label"]] += 1
            gaps.add(match["gap"])
            suffixes.add(suffix)
    labels = [each for each in found if found[each] > 1]
    enough = sum(found[each] for each in labels) >= MOST * len(some)
    if not enough or not 2 <= len(labels) <= max(2, len(some) // 3) or guards.why_not(dict(found)):
        return [], ""
    gap, suffix = gaps.pop(), suffixes.pop() if len(suffixes) == 1 else ".*"
    return sorted(labels), f"{{label}}{gap}{{n}}{suffix}" if gap and not gaps else ""


def told(names: Sequence[str], labelled: bool) -> list[str]:
    """Sentences about names of files that say what nobody reads."""
    found, images = masks.find(_some(names, MOST_MASKS))
    if found:
        how = masks.way_out(found, images)
        return [f"some files, such as '{found[0]}', look like masks, and became images: {how}"]
    if labelled:
        return []
    labels, pattern = label(names)
    if not labels:
        return []
    shown = ", ".join(f"'{each}'" for each in labels[:3])
    how = f"pattern='{pattern}'" if pattern else "a table (labels='table.csv')"
    return [f"the names of the files begin with what looks like a label ({shown}), which is not used: {how} takes it"]


def _some(names: Sequence[str], most: int = SAMPLE) -> Sequence[str]:
    """At most so many of the names, from everywhere: what lies beside each other stays together."""
    if len(names) <= most:
        return names
    step = len(names) * BLOCK // most
    return [name for start in range(0, len(names), step) for name in names[start : start + BLOCK]]


def _parts(name: str) -> tuple[str, str, str]:
    """(folder, name without suffix, suffix)."""
    folder, _, file = name.rpartition("/")
    stem, dot, suffix = file.rpartition(".")
    return folder, stem if dot else file, dot + suffix if dot else ""
