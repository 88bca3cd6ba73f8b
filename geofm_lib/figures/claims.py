"""06: what the paper says, item by item, beside ours, and the verdicts counted. No torch.

`run` is a finished `findings` run, or None: what needs its evidence is then "not measured".
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from geofm_lib.figures.display import Rendered, Table
from geofm_lib.paper.claims import answers
from geofm_lib.paper.performance import PREDICTED, memory_points, unseen
from geofm_lib.paper.verdicts import VERDICTS, Answer, median_error, percent
from geofm_lib.runs.run import Run

ITEMS = ("table", "figure", "claim")
SHOWN = ("reproduced", "same ordering")
COUNTED = {
    "reproduced": "are reproduced", "same ordering": "keep the published order only", "differs": "differ",
    "not comparable": "cannot be compared, since their numbers were not found", "not measured": "are not measured",
}  # fmt: skip


@dataclass
class Claims(Rendered):
    """Rows of claims.csv with their verdicts: a line of numbers and verdict, and below it how and why."""

    template = "claims"
    rows: list[tuple[dict[str, str], Answer]]
    first: str  # heading of the first column

    def __repr__(self) -> str:
        return "\n".join(f"{claim['id']} {claim['about']}: {found.verdict}" for claim, found in self.rows)


@dataclass
class Summary(Rendered):
    """Sentences, then the items that differ, each with its reason."""

    template = "summary"
    sentences: list[str]
    differing: list[dict[str, str]]

    def __repr__(self) -> str:
        return " ".join(self.sentences)


def of_kind(run: Run | None, kind: str) -> Claims:
    """What the paper says in its items of one kind (table, figure, claim, finding), and what came of it here."""
    return Claims(answers(_evidence(run), kind), "finding" if kind == "finding" else "what the paper says")


def verdicts(run: Run | None) -> Table:
    """How many tables, figures and claims of the paper have come to which verdict, and which."""
    found: dict[str, list[str]] = {word: [] for word in VERDICTS}
    for claim, each in answers(_evidence(run), *ITEMS):
        found[each.verdict].append(claim["id"])
    rows = [(word, len(names), ", ".join(names) or "–") for word, names in found.items()]
    frame = pd.DataFrame(rows, columns=["verdict", "items", "which"])
    return Table(frame, f"{frame['items'].sum()} tables (T), figures (G) and claims (C) of the paper, by verdict")


def summary(run: Run | None) -> Summary:
    """The paper in a few lines, for a reader of nothing else: every number and item from the verdicts."""
    items = answers(_evidence(run), *ITEMS)
    counts = Counter(each.verdict for _, each in items)
    words = "; ".join(f"{counts[word]} {COUNTED[word]}" for word in VERDICTS if counts[word])
    lines = [f"Of {len(items)} tables, figures and claims, {words}."]
    speeds = [("", *pair) for pair in unseen(*PREDICTED).values()]
    peaks = [point for by_nodes in (False, True) for point in memory_points(by_nodes)]
    if speeds and peaks:
        lines.append(f"Throughput of a model that the planner has not seen is predicted with a median error of "
                     f"{percent(median_error(speeds))} ({len(speeds)} points), memory is simulated with "
                     f"{percent(median_error(peaks))} ({len(peaks)}).")  # fmt: skip
    findings = answers(_evidence(run), "finding")
    shown = [f"{claim['about']} ({claim['id']})" for claim, each in findings if each.verdict in SHOWN]
    if shown:
        lines.append(f"Shown here of how its numbers came about: {'; '.join(shown)}.")
    return Summary(lines, [claim for claim, each in items if each.verdict == "differs"])


def _evidence(run: Run | None) -> dict[str, Any]:
    return run.summary if run else {}
