"""WebDataset shards: tars in which the files of a sample follow one another and share a key, with their labels.

The key is the path up to the first dot of the file's name, as the webdataset library has it: `a/0001.png` and
`a/0001.cls` are one sample. Tars are read once, in their order, whether compressed or not.
"""

import contextlib
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from geofm_lib.data.sources import archives, json_labels, listing
from geofm_lib.data.sources.item import Item, Refused
from geofm_lib.data.sources.sides import side_of
from geofm_lib.data.sources.unused import LEFT_OUT, Unused

LABELS = ("cls", "label", "labels", "class", "json", "txt")  # what comes first counts
ALWAYS = LABELS[:4]  # of these nothing else is called so
CLASS_NAMES = ("classes.txt", "classnames.txt", "class_names.txt", "dataset.json")  # beside the tars, or above them
LOOKED_AT = 100  # samples of the first tar
MOST_ALONE = 20  # different labels that are never too many
MOST_LABEL = 2**20  # bytes of a label
NO_TEXT = b"\0"  # stands for a label that is none


class Shard(NamedTuple):
    """A tar of a data set. stem: its path below the set's folder, without suffix."""

    path: Path
    stem: str
    side: str


class Sample(NamedTuple):
    """The files of one key. images: name -> bytes; labels: suffix -> bytes."""

    key: str
    images: dict[str, bytes | Callable[[], bytes]]
    labels: dict[str, bytes]


def is_one(source: listing.Source) -> bool:
    """Does the first tar have labels beside its images, or is it one of several shards without folders?"""
    shard = next(shards(source), None)
    if shard is None:
        return False
    try:
        samples = [each for each in itertools.islice(_samples(shard.path), LOOKED_AT) if each.images]
    except listing.DAMAGE:
        return False
    flat = not any("/" in each.key.removeprefix("./") for each in samples)
    labelled = sum(any(_is_label(suffix, data, flat) for suffix, data in each.labels.items()) for each in samples)
    numbered = len(list(itertools.islice(shards(source), 2))) > 1 and bool(listing.SHARD.search(shard.stem))
    return bool(samples) and (2 * labelled >= len(samples) or numbered and flat)


def shards(source: listing.Source) -> Iterator[Shard]:
    """The tars of a source; none if it has anything else."""
    assert source.path is not None, "drawn and downloaded images have no path"
    if source.kind == "tar":
        yield Shard(source.path, "", "")
    if source.kind != "archives":
        return
    found = list(listing.archives(source.path, []))
    if all(kind == "tar" for _, kind, _ in found):
        for path, _, below in found:
            stem = listing.ARCHIVE.sub("", path.relative_to(source.path).as_posix())
            side = next(filter(None, map(side_of, below("x").split("/")[:-1])), "")
            yield Shard(path, stem, side)


def items(
    source: listing.Source, chosen: Callable[[str], bool] = listing.is_image_name, unused: Unused | None = None
) -> Iterator[Item]:
    """The images, in the order of the tars, with labels and sides. chosen: which members are taken, by name.

    What is neither image nor label is counted in `unused`.

    Raises ValueError, one sentence, where a key has several images, or a number no name.
    """
    assert source.path is not None, "drawn and downloaded images have no path"
    names, troubles = class_names(source.path), list[tuple[str, str]]()
    if source.kind == "archives":
        list(listing.archives(source.path, troubles))
    for shard in shards(source):
        try:
            for sample in _samples(shard.path, chosen, unused):
                if len(sample.images) > 1:
                    raise ValueError(_several(sample, shard))
                for name, data in sample.images.items():
                    where = archives.clean(f"{shard.stem}/{name}")
                    try:
                        yield Item(where, data, _label(sample, names), shard.side)
                    except Refused as error:
                        yield Item(where, functools.partial(_refuse, str(error)))
        except listing.DAMAGE as error:
            troubles.append((shard.path.name, listing.rest_lost(error)))
    yield from archives.lost(troubles)


def no_classes(labels: list[str]) -> str:
    """Why the labels beside the images are none, as captions or ids are not; "" where they may be classes."""
    there = [label for label in labels if label]
    if len(set(there)) <= max(MOST_ALONE, len(there) // 2):
        return ""
    words = f"the {len(there)} texts beside the images, such as '{there[0][:60]}', are {len(set(there))} different ones"
    return f"{words}, captions or names and not classes, and give no labels: labels='table.csv' takes them from a table"


def class_names(path: Path) -> list[str]:
    """The names of the classes by their number, from a file beside the tars or above them; [] for none."""
    for folder in (path if path.is_dir() else path.parent, path.parent):
        for file in (folder / name for name in CLASS_NAMES):
            try:
                text = file.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError):
                continue
            if file.suffix == ".txt":
                return [line.strip() for line in text.strip().splitlines()]
            found: Any = None
            with contextlib.suppress(ValueError, RecursionError):
                found = json.loads(text)
            if isinstance(found, dict):
                found = found.get("classes") or found.get("class_names")
                if isinstance(found, list):
                    return [str(each) for each in found]
    return []


def _samples(
    path: Path, chosen: Callable[[str], bool] = listing.is_image_name, unused: Unused | None = None
) -> Iterator[Sample]:
    """Members of a tar that follow one another with one key. Raises what `listing.members` does."""
    sample = Sample("", {}, {})
    for archive, member in listing.members(path):
        folder, _, file = member.name.rpartition("/")
        stem, _, suffix = file.partition(".")
        key = os.path.join(folder, stem)
        image = listing.is_image_name(member.name) and chosen(member.name)
        if not stem or not image and suffix.lower() not in LABELS:
            if unused is not None:
                unused.add(member.name, LEFT_OUT if listing.is_image_name(member.name) else "")
            continue
        if key != sample.key:
            if sample.key:
                yield sample
            sample = Sample(key, {}, {})
        if image and member.size > archives.MOST_BYTES:
            sample.images[member.name] = functools.partial(archives.fail, archives.too_large(member.size))
        elif image or member.size <= MOST_LABEL:
            data = archive.extractfile(member)
            (sample.images if image else sample.labels)[member.name if image else suffix.lower()] = (
                data.read() if data else b""
            )
        else:
            sample.labels[suffix.lower()] = NO_TEXT
    if sample.key:
        yield sample


def _is_label(suffix: str, data: bytes, flat: bool) -> bool:
    """Is this a label? A text beside images in folders is none, since the folders are the classes."""
    if suffix == "json":
        return bool(json_labels.label(data))
    return suffix in ALWAYS or flat and 0 < len(data.strip()) < 100 and b"\n" not in data.strip()


def _label(sample: Sample, names: list[str]) -> str:
    """The label of a sample, "" for none; a number becomes a name. Raises Refused for what is no text."""
    suffix = next((suffix for suffix in LABELS if suffix in sample.labels), "")
    if not suffix:
        return ""
    data = sample.labels[suffix]
    try:
        text = json_labels.label(data) if suffix == "json" else data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = NO_TEXT.decode()
    if "\n" in text or not text.isprintable():
        raise Refused(f"its label, .{suffix}, is no line of text")
    return "|".join(_named(each, names, f"{sample.key}.{suffix}") for each in text.split("|"))


def _named(text: str, names: list[str], where: str) -> str:
    if not text.isdecimal():
        return text
    if names and int(text) >= len(names):
        raise ValueError(f"dataset: '{where}' says class {text}, but only {len(names)} names of classes are beside it")
    return names[int(text)] if names else str(int(text))


def _several(sample: Sample, shard: Shard) -> str:
    first, second, *_ = sample.images
    end = first.rpartition("/")[2].partition(".")[2]
    return (
        f"dataset: sample '{sample.key}' of '{shard.path.name}' has several images ('{first}', '{second}'): pattern="
        f"'*.{end}' takes one of them, pattern='{{id}}.{{band}}.{end.rpartition('.')[2]}' stacks them, without labels"
    )


def _refuse(reason: str) -> bytes:
    raise Refused(reason)
