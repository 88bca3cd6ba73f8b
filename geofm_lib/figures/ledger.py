"""06: the ledger of what the paper says, and what came of it. Without a `findings` run these are "not measured"."""

import textwrap
from dataclasses import dataclass

import pandas as pd

from geofm_lib.figures import blind, display
from geofm_lib.figures._axes import FAINT, legend_below, own_look
from geofm_lib.figures.display import Figure, Links, Rendered, axes, file_address, styled
from geofm_lib.paper import ledger
from geofm_lib.paper.claims import answers, gathered
from geofm_lib.paper.performance import PREDICTED, memory_points, unseen
from geofm_lib.paper.verdicts import HOW, Answer, median_error, percent
from geofm_lib.runs import results
from geofm_lib.runs.run import Run

ITEMS = ("table", "figure", "claim")
NO_VERDICT = "no verdict on the paper"
LABEL = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
DRAWN = {"unseen": "predictions by fits without the model", "blind-truth": "the blind test", "table-one": "both counts",
         "precision": "as measured here", "precision-frontier": "as predicted", "replicas": "as measured here",
         "start-up": "as measured here"}  # fmt: skip
"""Cells that draw an item; the others draw it as published."""
COUNTED = {
    "reproduced": ("is reproduced", "are reproduced"), "differs": ("differs", "differ"),
    "same ordering": ("keeps the published order only", "keep the published order only"),
    "fitted": ("is fitted and has no verdict", "are fitted and have no verdict"),
    "not comparable": ("cannot be compared", "cannot be compared"),
    "not measured": ("is not measured", "are not measured"),
}  # fmt: skip
"""A verdict of one item, and of several, in words."""


@dataclass
class Claims(Rendered):
    """Rows of claims.csv with their verdicts: a line of numbers and verdict; below it how, why, where and what next."""

    template = "claims"
    rows: list[tuple[dict[str, str], Answer]]
    first: str  # heading of the first column
    caption: str
    run: Run | None = None

    def __repr__(self) -> str:
        return "\n".join(f"{claim['id']} {claim['about']}: {found.verdict}" for claim, found in self.rows)

    def behind(self, claim: dict[str, str]) -> Links:
        """What draws an item on this page, and the file or run that its numbers come from."""
        drawn = [(f"drawn below: {DRAWN.get(cell, 'as published')}", f"#{cell}") for cell in claim["shown"].split()]
        name = claim["behind"]
        ours = self.run.folder / "summary.json" if self.run else None
        address = file_address(results.ROOT / ledger.FILES[name]) if name in ledger.FILES else file_address(ours, False)
        numbers = [(f"numbers: {ledger.BEHIND[name]}", address)] if name else []
        return Links(drawn + numbers)

    def settle(self, claim: dict[str, str], found: Answer) -> str:
        """The rows of the grid that would settle or measure an item, in words; "" where none is needed or known."""
        names = ledger.settling(claim)
        if ledger.settled(claim, found) or not names:
            return ""
        rows = f"{len(names)} row{'s' * (len(names) > 1)} of {ledger.GRID}: {claim['settle'].replace(' ', ', ')}"
        return f"To {ledger.purpose(found)} it on GPUs: {rows}"


@dataclass
class Differing(Rendered):
    """The items that differ, each with its reason."""

    template = "differing"
    claims: list[dict[str, str]]

    def __repr__(self) -> str:
        return "; ".join(f"{claim['id']} {claim['about']}" for claim in self.claims)


def of_kind(run: Run | None, kind: str) -> Claims:
    """What the paper says in its items of one kind (table, figure, claim, finding, question), and what came of it."""
    first = {"finding": "finding", "question": "what the paper leaves open"}.get(kind, "what the paper says")
    caption = f"The {kind}s{' of the paper' * (kind != 'finding')}: what is published, what came out here, the verdict"
    return Claims(answers(gathered(run), kind), first, caption, run)


@styled
def verdicts(run: Run | None) -> Figure:
    """The paper's tables, figures and claims by verdict, and within a verdict by how ours was obtained."""
    items = answers(gathered(run), *ITEMS)
    by_how = ledger.split(items)
    which = {word: ", ".join(claim["id"] for claim, each in items if each.verdict == word) for word in by_how}
    figure, ax = axes(height=3.0)
    for y, counts in enumerate(by_how.values()):
        left = 0
        for how in (*HOW, ""):
            if counts[how]:
                colour, name = (own_look(how)["color"], f"{how} ({how[0].upper()})") if how else (FAINT, NO_VERDICT)
                ax.barh(y, counts[how], 0.65, left, color=colour, edgecolor="white", label=name)
                words = f"{counts[how]} {how[:1].upper()}".strip()
                ax.text(left + counts[how] / 2, y, words, ha="center", va="center", fontsize=8, bbox=LABEL)
            left += counts[how]
        ax.text(left + 0.2, y, textwrap.fill(which[list(by_how)[y]], 27) or "none", va="center", fontsize=8)
    ax.set_yticks(range(len(by_how)), list(by_how))
    ax.set(xlabel="items of the paper", xlim=(0, 2 * max(counts.total() for counts in by_how.values())))
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set_xticks(range(0, 1 + max(counts.total() for counts in by_how.values()), 2))
    legend_below(figure, [ax], 3)
    rows = [{"verdict": word, "items": counts.total(), **{how: counts[how] for how in HOW}, "which": which[word] or "–"}
            for word, counts in by_how.items()]  # fmt: skip
    said = "; ".join(
        f"{word}{ledger.obtained(word, counts)} {which[word]}" for word, counts in by_how.items() if which[word]
    )
    alt = f"The paper's {len(items)} tables (T), figures (G) and claims (C) by verdict and how it was obtained: {said}."
    return Figure(figure, alt, pd.DataFrame(rows))


def summary(run: Run | None) -> display.Answer:
    """The paper in a few lines, for a reader of nothing else: every number and item from the verdicts."""
    evidence = gathered(run)
    items = answers(evidence, *ITEMS)
    words = "; ".join(f"{counts.total()} {COUNTED[word][counts.total() != 1]}{ledger.obtained(word, counts)}"
                      for word, counts in ledger.split(items).items() if counts.total())  # fmt: skip
    lines = [f"Of {len(items)} tables, figures and claims, {words}."]
    if not any(counts["measured"] for counts in ledger.split(items).values()):
        lines.append("No verdict is measured: that takes the paper's machine.")
    speeds = [("", *pair) for pair in unseen(*PREDICTED).values()]
    peaks = [point for by_nodes in (False, True) for point in memory_points(by_nodes)]
    if speeds and peaks:
        lines.append(f"Throughput of a model that a fit has not seen is predicted with a median error of "
                     f"{percent(median_error(speeds))} ({len(speeds)} points), memory is simulated with "
                     f"{percent(median_error(peaks))} ({len(peaks)}).")  # fmt: skip
    if blind_test := blind.told():
        lines.append(blind_test)
    findings = answers(evidence, "finding")
    good = ("reproduced", "same ordering")
    shown = [f"{claim['about']} ({claim['id']})" for claim, each in findings if each.verdict in good]
    if shown:
        lines.append(f"Shown here of how its numbers came about: {'; '.join(shown)}.")
    return display.Answer(lines[0], " ".join(lines[1:]))


def differing(run: Run | None) -> Differing:
    """What comes out in another order than in the paper, and why."""
    items = answers(gathered(run), *ITEMS)
    return Differing([claim for claim, each in items if each.verdict == "differs"])
