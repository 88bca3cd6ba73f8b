"""The part of a preparation whose source is prepared folders: rows, labels and sides are theirs, and no image moves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.data import overlap, pack, union
from geofm_lib.data.sources import listing, prepared
from geofm_lib.data.sources.bands import few
from geofm_lib.data.sources.labels import Assigned
from geofm_lib.data.sources.pairs import Pairs
from geofm_lib.data.split import Split
from geofm_lib.jobs import prepare_pairs
from geofm_lib.jobs.prepare_collection import Collection, Gathered
from geofm_lib.settings import PrepareSettings

SAID = "the prepared folders"


@dataclass
class United:
    """The members, how many images each has, and, once it is split, which images leak."""

    members: list[prepared.Member]
    counts: list[int] = field(default_factory=list)
    fingerprints: overlap.Fingerprints = field(default_factory=overlap.Fingerprints)
    leaks: overlap.Found = field(default_factory=dict)

    def gather(self, settings: PrepareSettings, folder: Path) -> Gathered:
        """Their rows, written to `folder` and taken in, and what the members say of each image."""
        self.counts = union.gather(self.members, folder)
        images = Collection(settings.channels, settings.pattern)
        for sample in pack.rows(folder):
            images.add(sample)
            if not sample.reason:
                self.fingerprints.add(sample)
        if images.misfits(settings.dataset):
            raise ValueError(f"dataset: '{settings.dataset}' holds images of several kinds; prepare them again")
        labels, sides, scenes = ([each[k] for each in images.given] for k in range(3))
        named = [files.read_json(member.folder / "statistics.json").get("bands", []) for member in self.members]
        same = named[0] if all(each == named[0] for each in named) else []
        told = other_names({member.name: bands for member, bands in zip(self.members, named, strict=True)})
        return Gathered(images, Assigned(labels, sides, scenes, SAID, SAID), told, bands=same)

    def split(self, images: Collection) -> Split:
        """The side of each image; ValueError when not one is left to train on."""
        sides, self.leaks = union.sides([side for _, side, _ in images.given], self.fingerprints)
        names = ", ".join(member.name for member in self.members)
        if "train" not in sides:
            raise ValueError(f"dataset: every train image of {names} is a test or val image of them too; none is left")
        exact, near = (int(self.leaks[kind].sum()) for kind in ("exact", "near"))
        told = f"of the train images {exact} with the same pixels as a test or val image of {names}, and {near} with "
        told += "nearly the same look, are not trained on"
        return Split(sides, f"given: {SAID}", [told] if exact + near else [])

    def pairs(self, images: Collection) -> Pairs | None:
        """The pairs of the members, None without any."""
        folders = {each.name: (each.folder, count) for each, count in zip(self.members, self.counts, strict=True)}
        return prepare_pairs.of_members(folders, [side for _, side, _ in images.given])

    def summary(self, folder: Path, sides: list[str]) -> dict[str, Any]:
        """What is told of a union beside what is told of any preparation."""
        rows = union.sets(folder, self.members, self.counts, sides, self.leaks)
        return {"sets": rows, "leaks": sides.count(union.LEAK)}


def other_names(named: dict[str, list[str]]) -> list[str]:
    """A sentence where members name their bands otherwise, or in another order. named: member -> names, or none."""
    known = {name: bands for name, bands in named.items() if bands}
    first = next(iter(known), "")
    others = [name for name in known if ",".join(known[name]).lower() != ",".join(known[first]).lower()]
    if not others:
        return []
    told = f"the bands of '{others[0]}' ({few(known[others[0]])}) have other names than those of '{first}' "
    told += f"({few(known[first])})" + (f", and so have those of {few(others[1:])}" if others[1:] else "")
    return [f"{told}: bands at one place count as the same, so prepare with bands=... in one order if they are not"]


def members(settings: PrepareSettings, source: listing.Source, folder: Path) -> list[prepared.Member]:
    """The prepared folders that `dataset` names, none where it is anything else. Nothing is written.

    ValueError for options that cannot change them, and where the run's folder is one of them.
    """
    if source.kind != "prepared":
        return []
    prepared.refuse_options(settings)
    found = prepared.find(settings.dataset)
    if any(folder.resolve() == member.folder for member in found):
        raise ValueError(f"run_dir: '{folder}' is one of the folders in dataset; choose another")
    return found
