"""Folders that are no classes: images and masks, dates, bands, ids of places. Each kind has its words."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

from geofm_lib.catalog.datasets import DATASETS

PLACES = "numbered places"
MOST = 0.8  # of the folders must look so
SAMPLE = 10_000  # folders looked at
FEW = 10  # so many folders with one image each are no classes

_MASKS = (
    "mask masks label labels annotation annotations annotated ann anno gt gts groundtruth target targets "
    "segmentation segmentations seg segs segmentationclass segmentationobject semantic instance instances msk lbl "
    "labelsimages labelids output outputs colormask labelcol labelsrgb change changes cd"
)
_IMAGES = (
    "image images img imgs jpegimages picture pictures photo photos input inputs data rgb raw source sources src "
    "orig original"
)
_PAIRS = (
    "a b t1 t2 im1 im2 img1 img2 image1 image2 time1 time2 date1 date2 before after pre post predisaster "
    "postdisaster preevent postevent preflood postflood prefire postfire old new past present label1 label2 imga "
    "imgb out list"
)
_BANDS = (
    "red green blue nir rededge re1 re2 re3 swir swir1 swir2 mir tir lwir pan vv vh hh hv coastal cirrus thermal "
    "scl tci ndvi aot wvp cld snw alpha qa slope dem dsm"
)
_SENSORS = (
    "s1 s2 s3 s5p l8 l5 l7 sentinel1 sentinel2 landsat landsat8 landsat7 modis naip planet spot s1grd s2l1c s2l2a "
    "s2c s2a s1a s1b sar opt optical ms multispectral hsi lidar dem dsm rgb rgbn msrgb png jpg jpeg tif tiff "
    "geotiff jp2 visible infrared ir vis vnir swir tir pan lr hr highres lowres"
)
_DATES = (
    "spring summer autumn fall winter january february march april may june july august september october "
    "november december jan feb mar apr jun jul aug sep oct nov dec"
)
_PRODUCT = "granule imgdata qidata auxdata datastrip html repinfo annotation measurement support preview"

# kind -> words. A folder's name without signs is one of them.
WORDS = {
    "images and masks": _MASKS + " " + _IMAGES,
    "two dates of the same places": _PAIRS,
    "single bands": _BANDS,
    "sensors or file formats": _SENSORS,
    "dates": _DATES,
    "parts of a product": _PRODUCT,
}
_KINDS = {word: kind for kind, words in reversed(WORDS.items()) for word in words.split()}
_MASK_WORDS = set(_MASKS.split())
_BAND = re.compile(r"(?:b|band)_?\d{1,2}a?", re.I)
_RESOLUTION = re.compile(r"r?\d+(?:[.p]\d+)?_?(?:m|cm|px)", re.I)
_DATE = re.compile(r"(?:19|20)\d\d(?:[-_. ]?(?:[01]\d|q[1-4])(?:[-_. ]?[0-3]\d(?:t\d{4,6}z?)?)?)?", re.I)
_TILE = re.compile(r"t?\d{2}[a-z]{3}", re.I)
_PLACES = set(
    (
        "patch tile scene image img area region site roi rois plot block chip sample frame seq sequence id part "
        "folder batch subset fold split date orbit path row event location loc place city station field parcel "
        "mgrs granule shard chunk grid cell zone map sheet point pos series time object obj instance house "
        "building polygon feature tiles dir group"
    ).split()
)
# Numbers after one of these are classes; so are ImageNet's numbers.
_CLASSES = set(
    (
        "class classes cls cl c klasse clase classe label cat category type lcz lc lu lulc clc cluster grade level"
    ).split()
)
_NUMBERED = re.compile(r"(.*\D|.*\d[_ -])\d+")
_WORDNET = re.compile(r"n\d{8}")


def why_not(folders: dict[str, int], common: Sequence[set[str]] = ()) -> str:
    """What the folders of one level look like instead of classes, "" for nothing.

    folders: {path: images in it}. common: the names of the files in each of a few folders, without suffix.

    >>> why_not({"forest": 20, "river": 20}), why_not({"before": 9, "after": 9}), why_not({"2019": 5, "2020": 7})
    ('', 'two dates of the same places', 'dates')
    >>> why_not({"airport/airport_0": 3, "airport/airport_1": 4, "port/port_0": 1})
    'numbered places'
    """
    if len(folders) > SAMPLE:
        folders = dict(itertools.islice(folders.items(), 0, None, len(folders) // SAMPLE))
    names = sorted({last_part(path) for path in folders})
    if len(names) < 2 or known(names):
        return ""
    kinds = {_kind(name) for name in names}
    if "" not in kinds:
        letters = all(len(name) == 1 for name in names)
        if letters and not _repeated(common, sequences=True):
            return ""  # a and b may be anything
        for kind in ("images and masks", "two dates of the same places"):
            if kind in kinds:
                return kind
        return next(iter(sorted(kinds)))
    if sum(_is_date(name) for name in names) >= MOST * len(names):
        return "dates"
    if _numbers(names, folders):
        return PLACES
    if sum(map(_is_id, folders)) >= MOST * len(folders):
        return PLACES
    if len(names) >= FEW and median(folders.values()) == 1:
        return "places, most with one image"
    return "the same images several times" if _repeated(common, sequences=False) else ""


def is_mask(name: str) -> bool:
    """Is the whole name a word for masks, such as SegmentationClass?"""
    return only_letters(name) in _MASK_WORDS


def is_role(name: str) -> bool:
    """Does this name alone say what kind of files a folder holds, not which class?"""
    return bool(_kind(name))


def known(names: list[str]) -> bool:
    """Are half of the names classes of data sets that are known here?"""
    return 2 * sum(only_letters(name) in _CLASS_NAMES for name in names) >= len(names)


def _kind(name: str) -> str:
    """The kind of thing, other than a class, that this name alone stands for."""
    plain = only_letters(name)
    if _BAND.fullmatch(name) or _BAND.fullmatch(plain):
        return "single bands"
    if _RESOLUTION.fullmatch(name):
        return "resolutions"
    return _KINDS.get(plain, "")


def _is_date(name: str) -> bool:
    return bool(_DATE.fullmatch(name)) or _KINDS.get(only_letters(name)) == "dates"


def _is_id(path: str) -> bool:
    """Does the last folder of a path look like the number of a place, an event or a product?"""
    above, _, name = path.rpartition("/")
    runs = re.findall(r"\d+", name)
    if not runs or _WORDNET.fullmatch(name) or (prefix := _prefix(name)) in _CLASSES:
        return False
    numbered = bool(re.fullmatch(r".*?[\d_.() -]+", name))
    if numbered and (prefix in _PLACES or prefix and prefix == only_letters(last_part(above))):
        return True
    if prefix in _PLACES and max(map(len, runs)) >= 3:
        return True
    hexadecimal = re.fullmatch(r"[0-9a-f-]{8,}", name.lower())
    return max(map(len, runs)) >= 5 or len(runs) >= 3 or bool(hexadecimal or _TILE.fullmatch(name) or _is_date(name))


def _numbers(names: list[str], folders: dict[str, int]) -> bool:
    """Are all names one word and a number, or few words with numbers each, or numbers that are no classes?"""
    if all(map(_WORDNET.fullmatch, names)):
        return False
    words = Counter(match[1].lower() for name in names if (match := _NUMBERED.fullmatch(name)))
    if (
        words.total() == len(names) > 3
        and min(words.values()) > 1
        and not _CLASSES.issuperset(map(only_letters, words))
    ):
        return True
    shapes = {re.sub(r"\d+", "0", name) for name in names}
    if len(names) < 3 or len(shapes) > 1 or "0" not in next(iter(shapes)):
        return False
    prefix = _prefix(names[0])
    if prefix:
        return prefix not in _CLASSES
    if not all(name.isdigit() for name in names):
        return True  # coordinates
    few = median(folders.values()) < 3 and len(names) > FEW
    return few or all(len(name) >= 4 for name in names)


def _repeated(common: Sequence[set[str]], sequences: bool) -> bool:
    """Do a few folders hold files of the same names? Running numbers, as classes have, count only if `sequences`."""
    if len(common) < 2 or min(map(len, common)) < 4:
        return False
    first = min(common, key=len)
    if not sequences and not _are_places(first):
        return False
    return all(len(first & other) >= 0.95 * len(first) for other in common)


def _are_places(stems: set[str]) -> bool:
    """Names with two numbers, or one that does not count up: they say where an image is from."""
    runs = [re.findall(r"\d+", stem) for stem in stems]
    if sum(len(each) > 1 for each in runs) >= MOST * len(stems):
        return True
    last = [int(each[-1]) for each in runs if each]
    return len(last) == len(stems) and max(last) - min(last) > 10 * len(stems)


def _prefix(name: str) -> str:
    return only_letters(re.split(r"\d", name, maxsplit=1)[0])


def only_letters(name: str) -> str:
    """A name in small letters and digits alone, without signs."""
    return "".join(filter(str.isalnum, name.lower()))


def last_part(path: str) -> str:
    """What stands behind the last "/" of a path."""
    return path.rpartition("/")[2]


_CLASS_NAMES = {only_letters(name) for card in DATASETS.values() for name in card.class_names}
