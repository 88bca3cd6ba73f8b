"""10: which of several runs is best, by which number, and which settings differ? No torch."""

import itertools
from typing import Any

import pandas as pd

from geofm_lib.catalog import headlines
from geofm_lib.catalog.metrics import MINUS
from geofm_lib.figures.display import Answer, Links, Note, Table, file_address
from geofm_lib.planning.conditions import WORKLOADS
from geofm_lib.runs.compared import MOST_NAMED, in_words
from geofm_lib.runs.comparison import Comparison, Group, Section
from geofm_lib.runs.member import NOT_BEGUN, NOT_NOTED, Member

UNKNOWN = {None, NOT_NOTED}
BLIND = "say nothing of how runs of equal settings differ"
MOST_PAIRS = 28  # rows of what made the difference: all pairs of eight runs
OF_PROCESS = "On a CPU peak memory is that of the whole process, Python and torch included"
UNITS = {"image_size": "{} px", "batch_per_gpu": "{} images a rank", "ranks": "{} ranks",
         "threads_per_rank": "threads a rank: {}"}  # fmt: skip


def answer(found: Comparison) -> Answer:
    """Which run is best, by how much and how sure; what differs; which runs are not ranked, and why."""
    parts = [part for section in found.sections if len(section.groups) > 1 for part in _best(section)]
    alone = [section for section in found.sections if len(section.groups) == 1]
    if not found.sections:
        parts = [f"None of the {len(found.members)} runs has finished with a number to rank them by, so none is best"]
    elif not parts and len(alone) == 1:
        parts = [f"By {alone[0].words}, {alone[0].groups[0].label} alone has a value: {_told(alone.pop().groups[0])}"]
    elif not parts:
        parts = [f"No two of the runs can be ranked with each other: they differ in {in_words(found.apart)}"]
    elif len(found.sections) > 1:
        parts.append(f"Runs that differ in {in_words(found.apart)} are ranked only among themselves")
    parts += [f"By itself: {s.groups[0].label}, {s.words} {_told(s.groups[0])}" for s in alone][:MOST_NAMED]
    if left := found.unranked:
        of = f"{len(left)} of {len(found.members)} runs" if len(left) > 1 else "One run"
        parts.append(
            f"{of} {'are' if len(left) > 1 else 'is'} not ranked: {in_words([_standing(each) for each in left])}"
        )
    parts += found.refused[:MOST_NAMED]
    if (others := len(found.refused) - MOST_NAMED) > 0:
        parts.append(f"{others} more rows of the grid cannot be read (geofm status GRID names them)")
    parts[1:1] = _conditions(found)
    first, *more = [each.rstrip(".") + "." for each in parts]
    return Answer(first, " ".join(more))


def _conditions(found: Comparison) -> list[str]:
    """What all runs have in common, and that no GPU was asked: a sentence each."""
    words = [UNITS.get(name, "{}").format(WORKLOADS.get(value, value)) for name, value in found.conditions.items()]
    said = [f"All runs: {', '.join(words)}"] if words and len(found.members) > 1 else []
    return said + ["Ran on CPU: times and memory say nothing about a GPU"] * (
        found.job == "throughput" and on_cpu(found)
    )


def on_cpu(found: Comparison) -> bool:
    """Did all runs that have begun run on a CPU?"""
    kinds = {each.run.environment.get("device_type") for each in found.members if each.state != NOT_BEGUN}
    return kinds == {"cpu"}


def about_memory(found: Comparison) -> str:
    """What is said of peak memory beside a ranking by speed: what it is of, or why it is not there."""
    shown = any(each.key == "peak_memory_gib" for each in found.beside)
    return found.left_out or (OF_PROCESS if shown and on_cpu(found) else "")


def settings(found: Comparison) -> Table | Note:
    """The settings that are not the same in all runs: a row a run, or a row a setting where those are more."""
    if not found.differing:
        return Note("No setting differs, so the runs are repeats of each other.")
    rows = {name: [_text(value) for value in values] for name, values in found.differing.items()}
    names = [each.name for each in found.members]
    if len(rows) > len(names):
        turned = [{"setting": name, **dict(zip(names, values, strict=True))} for name, values in rows.items()]
        return Table(pd.DataFrame(turned), "What is not the same in all runs")
    frame = pd.DataFrame({"run": [Links([(each.name, _address(each))]) for each in found.members], **rows})
    return Table(frame, "What is not the same in all runs")


def equal(found: Comparison) -> Note:
    """What is the same in all runs, in one line."""
    same = [f"{name} {_text(value)}" for name, value in found.equal.items()]
    rest = "every other setting is at its default in all of them"
    return Note(f"Equal in all runs: {', '.join(same)}; {rest}." if same else f"{rest[0].upper()}{rest[1:]}.")


def ranking(found: Comparison) -> Table:
    """A row a run, or for all seeds of equal settings: best first, each with its page; last what has no value."""
    rows = [_row(found, section, mark, place, group)
            for mark, section in marked(found) for place, group in enumerate(section.groups, 1)]  # fmt: skip
    first = next(iter(found.sections), None)
    rows += [{"run": _links([each]), "unlike the best": _unlike(first, each), "state": _state(each)}
             for each in found.unranked]  # fmt: skip
    frame = pd.DataFrame(rows)
    if "place" in frame:
        frame["place"] = frame["place"].astype("Int64")
    if set(frame["state"]) == {"finished"}:
        frame = frame.drop(columns="state")
    by = [f"{mark}{': ' * bool(mark)}{_by(section)}" for mark, section in marked(found)]
    over = dict.fromkeys(g.over for s in found.sections for g in s.groups if g.interval and len(g.members) == 1)
    caption = f"Best first, by {'; '.join(by)}" if by else "No run has a value yet"
    if over:
        caption += (
            f". Intervals are 95 %, {'; '.join(over)}: they {BLIND}. Of three seeds or repeats they are of the mean"
        )
        caption += " (Student's t), and hold that, too"
    if by and (said := about_memory(found)):
        caption += f". {said}"
    if len(found.sections) > 1:
        caption += f". Letters are rankings that cannot be mixed, since the runs differ in {in_words(found.apart)}"
    return Table(frame.dropna(axis=1, how="all"), caption)


def difference(found: Comparison) -> Table:
    """Pairs of runs that differ in one setting alone, with what that changed; first those that are not apart."""
    rows = []
    for mark, section in marked(found):
        for one, other in itertools.combinations(section.groups, 2):
            changed = _changed(one, other)
            if len(changed) == 1:
                rows.append(({"ranking": mark} if mark else {}) | _step(one, other, *changed.popitem()))
    rows.sort(key=lambda row: str(row["intervals apart"]).startswith("yes"))
    more = f"; the first {MOST_PAIRS} of {len(rows)} pairs" if len(rows) > MOST_PAIRS else ""
    empty = "No two runs differ in one setting alone, so what made the difference cannot be told apart."
    said = f", and {in_words(left)}, which do not change this number" if (left := _ignored(found)) else ""
    caption = f"What one setting changed, all others equal (seeds apart{said}), the better run first; pairs whose "
    caption += f"intervals overlap lead{more}"
    return Table(pd.DataFrame(rows[:MOST_PAIRS]), caption, empty=empty)


def _step(best: Group, other: Group, name: str, values: tuple[Any, Any]) -> dict[str, Any]:
    step, told = other.value - best.value, best.headline.told
    half = max(best.half or 0.0, other.half or 0.0) or None
    signed = best.headline.form.startswith("+")  # of a difference, which may be near 0, no share is told
    share = f" ({100 * step / abs(best.value):+.2g} %)" if best.value and not signed else ""
    known = best.interval is not None and other.interval is not None
    return {
        "runs": _links([one.members[0] for one in (best, other)]),
        "what differs": name,
        "better": _text(values[0]),
        "other": _text(values[1]),
        "value of the better": best.told,
        "of the other": other.told,
        "change": f"{'+' if step > 0 else '-'}{told(abs(step), False, half).lstrip('+')}{share}".replace("-", MINUS),
        "intervals apart": f"{'yes' if best.sure_before(other) else 'no'}, {_over(best, other)}" if known else None,
    }


def _over(*groups: Group) -> str:
    """What the intervals of these are over."""
    return " and ".join(dict.fromkeys(group.over for group in groups))


def _ignored(found: Comparison) -> list[str]:
    """Settings that differ, and are left out of what sets runs apart since they cannot change what is ranked."""
    seeds, ranked = found.kind.seeds, [each for each in found.members if each.headline]
    asked = [name for name in found.differing if name not in seeds and not name.startswith("encoder")]
    return [name for name in asked if all(name not in each.results for each in ranked)]


def marked(found: Comparison) -> list[tuple[str, Section]]:
    """The rankings with a letter each; '' where there is one alone."""
    letters = [""] if len(found.sections) == 1 else [chr(ord("A") + k % 26) for k in range(len(found.sections))]
    return list(zip(letters, found.sections, strict=True))


def _best(section: Section) -> list[str]:
    """Which run is best and which is next, and in what these two differ: a sentence each."""
    best, second = section.groups[:2]
    count = sum(len(group.members) for group in section.groups)
    ranked = f"{len(section.groups)}" + (f" settings ({count} runs)" if count > len(section.groups) else "")
    alike = best.interval and second.interval and best.over == second.over
    beside = second.ends if alike else second.spread
    words = f"By {section.words}, {best.label} is best of {ranked}: {_told(best)}"
    words += f"; next {second.label}: {second.told} ({beside})"
    if best.interval is None or second.interval is None:
        words += "; not both have an interval, so how sure that is cannot be said"
    elif not best.sure_before(second):
        words += "; the intervals overlap, so which of the two is better is not sure"
    changed = _changed(best, second)
    both = [f"{name} ({_text(here)} against {_text(there)})" for name, (here, there) in changed.items()]
    told = [f"Of what can change this number, these two differ in {in_words(both)}{'' if both[1:] else ' alone'}"]
    return [words, *told * bool(both), *_equal_runs(section)]


def _equal_runs(section: Section) -> list[str]:
    """By how much runs of equal settings differ, or that nobody knows: an interval of one run does not hold it."""
    several = [group for group in section.groups if len(group.members) > 1]
    if not several:
        known = any(group.interval for group in section.groups)
        return [f"Each setting ran once: the intervals {BLIND}, which can be more"] if known else []
    told = section.headline.told
    widest = max(several, key=lambda group: max(group.values) - min(group.values))
    apart = max(widest.values) - min(widest.values)
    step = abs(section.groups[0].value - section.groups[1].value)
    words = f"Runs of equal settings are up to {told(apart, False).lstrip('+')} apart ({widest.label})"
    return [f"{words}, the best and the next {told(step, False).lstrip('+')}"]


def _told(group: Group) -> str:
    return f"{group.told} ({group.spread})"


def _by(section: Section) -> str:
    return f"{section.words} ({'less' if section.headline.less else 'more'} is better)"


def _row(found: Comparison, section: Section, mark: str, place: int, group: Group) -> dict[str, Any]:
    one = len(group.members) == 1
    row: dict[str, Any] = {"ranking": mark} if mark else {}
    row |= {"place": place, "run": _links(group.members)}
    value = section.words if len(found.sections) == 1 else "value"
    row |= {value: group.told, "interval": group.spread if len(group.members) == 2 else "–"}
    if group.interval:
        count = "" if one else f" ({len(group.members)} {group.what})"
        row["interval"] = f"{group.ends}{count}"
    row["unlike the best"] = _unlike(section, group.members[0])
    for beside in found.beside:
        values = [float(beside.named(each.summary, beside.key)) for each in group.members
                  if beside is not group.headline and headlines.has(beside, each.summary)]  # fmt: skip
        if values:
            row[headlines.words(beside, group.members[0].summary)] = beside.told(sum(values) / len(values))
    damaged = [each.rows[1] for each in group.members if each.rows[1]]
    return row | {"state": "; ".join(["finished", *(f"without what it logged: {fault}" for fault in damaged)])}


def _unlike(section: Section | None, member: Member) -> str | None:
    """The settings of a run that the best of a ranking has otherwise."""
    if section is None or not member.settings:
        return None
    unlike = _differing(section.groups[0].members[0], member).items()
    return ", ".join(f"{name} {_text(here)}" for name, (there, here) in unlike if not {here, there} & UNKNOWN) or None


def _changed(one: Group, other: Group) -> dict[str, tuple[Any, Any]]:
    return _differing(one.members[0], other.members[0])


def _differing(one: Member, other: Member) -> dict[str, tuple[Any, Any]]:
    first, second = one.results, other.results
    names = dict.fromkeys([*first, *second])
    return {n: (first.get(n), second.get(n)) for n in names if repr(first.get(n)) != repr(second.get(n))}


def _state(member: Member) -> str:
    lacks = "finished" if member.state == "finished" else member.state
    said = "it holds no number to be ranked by" if member.state == "finished" else member.said
    return f"{lacks}, {said}" if said else lacks


def _standing(member: Member) -> str:
    """Of a run that has no value, its name and how far it is, without the reason why it failed."""
    said = "" if member.state in ("damaged", "private", NOT_BEGUN) else member.said.split(":")[0]
    return f"{member.name} ({', '.join(filter(None, (member.state, said)))})"


def _links(members: Any) -> Links:
    return Links([(each.name, _address(each)) for each in members])


def _address(member: Member) -> str:
    """The page of a run as a link counts it: from the page that this becomes, '' where there is none to link to."""
    return file_address(member.link(), travels=False)


def _text(value: Any) -> str | None:
    """A setting as text; None where it is not known."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return None if value is None else str(value) or "(none)"
