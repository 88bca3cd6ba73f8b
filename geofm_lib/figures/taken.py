"""01: the answer to its question: what was taken, converted, refused and not used. No torch."""

from collections import Counter
from collections.abc import Mapping

import pandas as pd

from geofm_lib.catalog.metrics import counted
from geofm_lib.figures.display import Answer, Note, Table, facts
from geofm_lib.figures.pretrain import drawn_by_us
from geofm_lib.runs.run import Run

MOST = 4  # reasons named in one line; the lists below have all
# Key of the summary -> words.
SIDES = {"train": "train", "val": "val", "test": "test", "leaks": "kept out of training"}


def said(run: Run) -> Answer | Note:
    """What goes in, and how much of the source does not, in one sentence."""
    found = run.summary
    if "images" not in found:
        return Note("The run has packed no image yet.")
    doubts = found.get("warnings", [])
    more = f" ({len(doubts) - 1} more below)" if len(doubts) > 1 else ""
    look = f"Look here first: {doubts[0]}{more}." if doubts else ""
    drawn = "All are drawn (synthetic) scenes." if drawn_by_us(run.settings) else ""
    return Answer(f"{_taken(run)} go in: {_sides(found)}. {_aside(found)}.", f"{drawn} {look}".strip())


def answer(run: Run) -> Table | Note:
    """One row for what was taken, and one for each thing that a reader might not expect."""
    found = run.summary
    if "images" not in found:
        return Note("The run has packed no image yet.")
    refused, unused = found.get("refused", 0), _unused(found)
    caption = "Where every file of the source went"
    caption += "; look here names what may not be meant, and the setting that decides" * bool(found.get("warnings"))
    rows = {f"look here ({i})" if i > 1 else "look here": text for i, text in enumerate(found.get("warnings", []), 1)}
    return facts(rows | {
        "taken": _taken(run),
        "labels": found.get("labels_from"),
        "split": _sides(found),
        "converted": _listed(_conversions(found)),
        "not measured": _masked(found),
        "refused": _listed(_reasons(run)) if refused else "",
        "empty tiles": _empty(found),
        "not used": _listed(unused),
        "there twice": _twice(found),
        "not in mean and std": _left_out(found),
    }, caption)  # fmt: skip


def conversions(run: Run) -> Table:
    """What was done to images before they were packed, and to how many."""
    rows = list(_conversions(run.summary).items())
    frame = pd.DataFrame(rows, columns=["what was done", "images"]).sort_values("images", ascending=False)
    caption = f"{counted(run.summary.get('converted', 0), 'image')} not stored as they came; one may need several steps"
    return Table(frame, caption, "Every image is stored as it came.")


def unused(run: Run) -> Table:
    """What else was in the source, by suffix and reason."""
    frame = run.read_csv("unused.csv")
    return Table(frame, f"{counted(len(frame), 'kind')} of files not used", "Nothing else was there.")


def sets(run: Run) -> Table | Note:
    """The data sets of a union, each with its own statistics."""
    rows = run.summary.get("sets") or []
    if not rows:
        return Note("This is one data set, no union of several.")
    return Table(pd.DataFrame(rows), f"{len(rows)} data sets in one")


def _aside(found: Mapping) -> str:
    converted, refused, unused = found.get("converted", 0), found.get("refused", 0), sum(_unused(found).values())
    empty = found.get("empty_tiles", 0)
    if not converted and not refused and not unused and not empty:
        return "None was converted or refused, and nothing else was there"
    many = f"{converted:,} of them were" if converted > 1 else "one of them was" if converted else "none of them was"
    words = f"{many} converted, {counted(refused, 'image')} refused, {counted(unused, 'other file')} not used"
    words += f", {counted(empty, 'empty tile')} left out" if empty else ""
    return words[0].upper() + words[1:]


def _taken(run: Run) -> str:
    found = run.summary
    classes, kind = len(found.get("classes") or {}), ""
    if found.get("channels"):
        kind = f", {counted(found['channels'], 'band')} of {found.get('dtype', 'uint8')}"
        kind += f" ({', '.join(found['bands'])})" if found.get("bands") else ""
    several = " (an image may have several)" if found.get("several_labels") else ""
    bare = found.get("unlabelled", 0)
    labelled = f" ({found['images'] - bare:,} with a label, {bare:,} without)" if bare else ""
    return (
        f"{counted(found['images'], 'image')}{labelled}, "
        + (f"{classes} classes{several}" if classes else "no labels")
        + kind
    )


def _sides(found: Mapping) -> str:
    counts = ", ".join(f"{words} {found[key]:,}" for key, words in SIDES.items() if found.get(key))
    return f"{counts} ({found['split_by']})" if found.get("split_by") else counts


def _conversions(found: Mapping) -> dict[str, int]:
    return found.get("conversions") or {}


def _unused(found: Mapping) -> dict[str, int]:
    """Files by suffix, whatever the reason."""
    return {suffix: sum(reasons.values()) for suffix, reasons in (found.get("unused") or {}).items()}


def _reasons(run: Run) -> dict[str, int]:
    frame = run.read_csv("refused.csv")
    return dict(Counter(frame["reason"])) if len(frame) else {}


def _masked(found: Mapping) -> str:
    if not found.get("masked_images"):
        return ""
    share = 100 * found.get("masked_share", 0)
    return f"{share:.2g} % of all pixels, in {counted(found['masked_images'], 'image')}; they are no target of training"


def _empty(found: Mapping) -> str:
    count = found.get("empty_tiles", 0)
    return (
        f"{counted(count, 'tile')} of scenes with too little that was measured (valid_min): left out" if count else ""
    )


def _twice(found: Mapping) -> str:
    exact, near = found.get("duplicates", 0), found.get("near_duplicates", 0)
    return f"{exact} with the same pixels, {near} nearly the same" if exact or near else ""


def _left_out(found: Mapping) -> str:
    count = found.get("left_out_of_statistics", 0)
    return f"{counted(count, 'image')} far outside of what the others hold" if count else ""


def _listed(counts: Mapping[str, int]) -> str:
    """The most frequent first: "CMYK to RGB (12), palette to RGB (3) and 2 more kinds"."""
    common = Counter(counts).most_common()
    text = ", ".join(f"{name} ({count:,})" for name, count in common[:MOST])
    return text + (f" and {len(common) - MOST} more kinds" if len(common) > MOST else "")
