"""Runs of one kind held against each other: what differs, what may be ranked together, and in which order.

Seeds (and repeats) of equal settings are one group. Runs that no number can rank together stand in sections of their
own. Only what has finished has a value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from scipy import stats

from geofm_lib.catalog import headlines
from geofm_lib.catalog.headlines import KINDS, WORDS, Headline, Kind
from geofm_lib.jobs.probe_summary import interval
from geofm_lib.runs import compared
from geofm_lib.runs.member import ENCODERS, NOT_BEGUN, NOT_NOTED, Member
from geofm_lib.runs.run import Run
from geofm_lib.settings import JOBS
from geofm_lib.settings.compare import CompareSettings

MOST_SHOWN = 3  # settings in a label
LEVEL = 0.95


@dataclass(frozen=True)
class Group:
    """Runs of equal settings: one, or several seeds or repeats."""

    members: tuple[Member, ...]
    headline: Headline
    label: str

    @property
    def values(self) -> list[float]:
        """A value a run."""
        return [float(self.headline.named(each.summary, self.headline.key)) for each in self.members]

    @property
    def value(self) -> float:
        """Of the only run, else the mean."""
        return sum(self.values) / len(self.values)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """(low, high): 95 %. Of one run its own; of three and more of the mean over them; of two there is none."""
        if len(self.members) == 1:
            return own_interval(self.members[0], self.headline)
        half = interval(self.values) if len(self.members) > 2 else None
        return None if half is None else (self.value - half, self.value + half)

    @property
    def what(self) -> str:
        """'seeds' or 'repeats', whatever its runs are."""
        return seeds_or_repeats(self.members)

    @property
    def half(self) -> float | None:
        """Half of the interval; it says how many digits are told."""
        return (self.interval[1] - self.interval[0]) / 2 if self.interval else None

    @property
    def told(self) -> str:
        """Its value as text."""
        return self.headline.told(self.value, half=self.half)

    @property
    def ends(self) -> str:
        """The ends of its interval as text; '' without one."""
        return " to ".join(self.headline.told(each, False, self.half) for each in self.interval or ())

    @property
    def over(self) -> str:
        """What its interval is over, and so all that it says something of."""
        return self.headline.over if len(self.members) == 1 else f"over {len(self.members)} {self.what}"

    @property
    def spread(self) -> str:
        """Its interval in words, and what that is over."""
        told = self.headline.told
        if len(self.members) == 2:
            return f"two {self.what}: {', '.join(map(told, self.values))}"
        return f"95 % interval {self.ends}, {self.over}" if self.interval else "one run, no interval"

    def sure_before(self, other: "Group") -> bool:
        """Do both have intervals, and do these not overlap?"""
        if self.interval is None or other.interval is None:
            return False
        first, second = sorted((self, other), key=lambda each: each.value)
        return first.interval[1] < second.interval[0]  # type: ignore[index]


@dataclass(frozen=True)
class Section:
    """Groups that may be ranked together, best first."""

    words: str
    alike: dict[str, Any]
    groups: list[Group]

    @property
    def headline(self) -> Headline:
        """By what they are ranked."""
        return self.groups[0].headline


@dataclass(frozen=True)
class Comparison:
    """Runs of one kind. `refused`: sentences on rows of a grid that cannot be read."""

    job: str
    members: list[Member]
    refused: list[str]

    @property
    def kind(self) -> Kind:
        """How runs of this job are compared."""
        return KINDS[self.job]

    @cached_property
    def settings(self) -> dict[str, list[Any]]:
        """Every setting, and fact that may matter: a value a run, None where it has none."""
        names = [*JOBS[self.job].model_fields, *(name for each in self.members for name in each.settings)]
        found = {name: [each.settings.get(name) for each in self.members] for name in dict.fromkeys(names)}
        facts = dict.fromkeys([*self.kind.told, *self.kind.alike])
        for name in [each for each in facts if each not in found or each == "device"]:
            begun = [each.fact(name) if each.state != NOT_BEGUN else None for each in self.members]
            found[name] = [None if value == NOT_NOTED else value for value in begun]
        return {name: values for name, values in found.items() if any(value is not None for value in values)}

    @cached_property
    def differing(self) -> dict[str, list[Any]]:
        """The settings that are not the same in all runs of which they are known."""
        own = {name: [v for v in values if v is not None] for name, values in self.settings.items()}
        return {name: self.settings[name] for name, known in own.items() if len({repr(each) for each in known}) > 1}

    @property
    def equal(self) -> dict[str, Any]:
        """The others, without those that are at their default."""
        fields = JOBS[self.job].model_fields
        first = {name: next(v for v in values if v is not None) for name, values in self.settings.items()}
        return {
            name: value for name, value in first.items()
            if name not in self.differing and not (name in fields and fields[name].default == value)
            and value != "" and not name.startswith(ENCODERS)
        }  # fmt: skip

    @property
    def runs(self) -> list[Run]:
        """The run folders that are read."""
        return [each.run for each in self.members if each.state != NOT_BEGUN]

    @property
    def conditions(self) -> dict[str, Any]:
        """What the kind's conditions are where all runs share them."""
        known = {name: [each.fact(name) for each in self.members if each.state != NOT_BEGUN]
                 for name in self.kind.conditions}  # fmt: skip
        return {name: values[0] for name, values in known.items()
                if len({repr(each) for each in values}) == 1 and values[0] != NOT_NOTED}  # fmt: skip

    @property
    def beside(self) -> list[Headline]:
        """What is shown beside the ranked number: not what a setting moves that is not the same in all runs."""
        return [each for each in self.kind.beside if not self.differing.keys() & set(each.moved)]

    @property
    def left_out(self) -> str:
        """In a sentence, what is not shown beside it, and why; '' where all is."""
        told = [f"{each.words.split(',')[0].capitalize()} is left out, which depends on {compared.in_words(moves)}"
                for each in self.kind.beside if (moves := [m for m in each.moved if m in self.differing])]  # fmt: skip
        return ". ".join(told)

    @cached_property
    def sections(self) -> list[Section]:
        """What may be ranked together, the largest first."""
        parts: dict[str, list[Member]] = {}
        for each in self.members:
            if each.headline:
                parts.setdefault(repr((headlines.words(each.headline, each.summary), self.alike(each))), []).append(
                    each
                )
        found = [self._section(part) for part in parts.values()]
        return sorted(found, key=lambda section: -sum(len(group.members) for group in section.groups))

    @property
    def unranked(self) -> list[Member]:
        """The runs that have no value: they have not finished, or measured nothing."""
        return [each for each in self.members if each.headline is None]

    @property
    def apart(self) -> list[str]:
        """What keeps the sections apart, in words."""
        alike = [section.alike for section in self.sections]
        names = [name for name in dict.fromkeys(n for a in alike for n in a)
                 if len({repr(each[name]) for each in alike if name in each}) > 1]  # fmt: skip
        by = ["the number that they have"] if len({section.words for section in self.sections}) > 1 else []
        return by + [WORDS.get(name, name) for name in names]

    def alike(self, member: Member) -> dict[str, Any]:
        """The facts of a run that must be equal in a ranking."""
        own = member.headline.alike if member.headline else ()
        return {name: member.fact(name) for name in (*self.kind.alike, *own)}

    def label(self, members: Sequence[Member]) -> str:
        """Runs in words: what sets them apart from the others that are ranked, where that is little, else a name."""
        first, *more = members
        counted = [*first.results, *(() if more else self.kind.seeds)] if first.headline else []
        ranked = [{**each.results, **each.settings} for each in self.members if each.headline]
        apart = [name for name in counted if len({repr(each.get(name)) for each in ranked}) > 1]
        own = {**first.results, **first.settings}
        if not apart or len(apart) > MOST_SHOWN:
            return f"{first.name} ({len(members)} {seeds_or_repeats(members)})" if more else first.name
        return ", ".join(f"{name} {_short(own.get(name))}" for name in apart)

    def _section(self, part: list[Member]) -> Section:
        first = part[0]
        assert first.headline is not None
        same: dict[str, list[Member]] = {}
        for each in part:
            same.setdefault(repr(sorted(each.results.items())), []).append(each)
        labels = [self.label(each) for each in same.values()]
        if len(set(labels)) < len(labels):
            labels = [", ".join(each.name for each in part) for part in same.values()]
        groups = [Group(tuple(m), first.headline, name) for m, name in zip(same.values(), labels, strict=True)]
        groups.sort(key=lambda group: group.value, reverse=not first.headline.less)
        return Section(headlines.words(first.headline, first.summary), self.alike(first), groups)


def of(settings: CompareSettings) -> Comparison:
    """The runs that the settings name; SettingsError, one sentence, for what cannot be compared."""
    return Comparison(*compared.chosen(settings))


def seeds_or_repeats(members: Sequence[Member]) -> str:
    """What runs of equal settings are to each other: 'seeds', or 'repeats' where the seeds are equal, too."""
    names = KINDS[members[0].job].seeds
    return "seeds" if len({repr([each.settings.get(n) for n in names]) for each in members}) > 1 else "repeats"


def own_interval(member: Member, headline: Headline) -> tuple[float, float] | None:
    """(low, high) of one run's number, 95 %, where the run has it."""
    value, low, high, half = (headline.named(member.summary, name)
                              for name in (headline.key, headline.low, headline.high, headline.half))  # fmt: skip
    if low is not None and high is not None:
        return float(low), float(high)
    if half is not None:
        return value - half, value + half
    return of_window(member.rows[0], value) if headline.key == "images_per_s" else None


def of_window(rows: pd.DataFrame, value: float) -> tuple[float, float] | None:
    """The interval of a median rate: between two of the window's own steps, counted from either end."""
    if "step_s" not in rows or "phase" not in rows:
        return None
    rates = sorted(1 / rows["step_s"][rows["phase"] == "steady window"].dropna())
    place = int(stats.binom.ppf((1 - LEVEL) / 2, len(rates), 0.5)) - 1 if rates else -1
    if place < 0:
        return None  # fewer than six steps say nothing
    middle = (rates[(len(rates) - 1) // 2] + rates[len(rates) // 2]) / 2
    return value * rates[place] / middle, value * rates[-1 - place] / middle


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
