"""The front page's rows: what the paper says, item by item, beside ours, with the verdicts counted. No torch."""

import html
from collections import Counter
from dataclasses import dataclass

import pandas as pd

from geofm_lib.figures.display import Table
from geofm_lib.paper.claims import answers
from geofm_lib.paper.performance import PREDICTED, memory_points, unseen
from geofm_lib.paper.verdicts import VERDICTS, Answer, median_error, percent

ITEMS = ("table", "figure", "claim")
SHOWN = ("reproduced", "same ordering")
COLUMNS = ("published", "here", "here / published", "verdict")
SAID = {
    "reproduced": "are reproduced", "same ordering": "keep the published order only", "differs": "differ",
    "not comparable": "cannot be compared, since their numbers were not found", "not measured": "are not measured",
}  # fmt: skip


def claims(run, *kinds: str) -> "Claims":
    """What the paper says (`kinds`: table, figure, claim, finding) and what came of it here.

    `run` is a finished `findings` run, or None: what needs its evidence is then "not measured".
    """
    return Claims(answers(_evidence(run), *kinds))


@dataclass
class Claims:
    """Rows of claims.csv with their answers: a line of numbers and verdict, and below it how and why."""

    rows: list[tuple[dict, Answer]]

    def _repr_html_(self) -> str:
        first = "finding" if all(claim["kind"] == "finding" for claim, _ in self.rows) else "what the paper says"
        head = "".join(f"<th>{name}</th>" for name in (first, *COLUMNS))
        body = "".join(_line(claim, found) for claim, found in self.rows)
        return f'<table class="statements"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def __repr__(self) -> str:
        return "\n".join(f"{claim['id']} {claim['about']}: {found.verdict}" for claim, found in self.rows)


def _line(claim: dict, found: Answer) -> str:
    ratio = "–" if found.ratio is None else f"{found.ratio:.3g}"
    css = "verdict " + found.verdict.replace(" ", "-")
    about = f"<strong>{claim['id']}</strong> {_safe(claim['about'])}"
    cells = [about, _safe(claim["published"]), _safe(found.ours), ratio,
             f'<em class="{css}">{found.verdict}</em>']  # fmt: skip
    how = f"<strong>{found.how}</strong>; " if found.how else ""
    more = f"{how}published: certainty {claim['certainty']}, {_safe(claim['source'])}. {_safe(claim['why'])}"
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr>{row}</tr><tr class="more"><td colspan="{len(cells)}">{more}</td></tr>'


def verdicts(run) -> Table:
    """How many tables, figures and claims of the paper have come to which verdict, and which."""
    found = answers(_evidence(run), *ITEMS)
    rows = [{"verdict": word, "items": 0, "which": ""} for word in VERDICTS]
    for row in rows:
        which = [claim["id"] for claim, each in found if each.verdict == row["verdict"]]
        row |= {"items": len(which), "which": ", ".join(which) or "–"}
    return Table(pd.DataFrame(rows), f"{len(found)} tables (T), figures (G) and claims (C) of the paper, by verdict")


def reading(run) -> "Reading":
    """The paper in a few lines, for a reader of nothing else: every number and item from the answers."""
    evidence = _evidence(run)
    items = answers(evidence, *ITEMS)
    counts = Counter(each.verdict for _, each in items)
    said = "; ".join(f"{counts[word]} {SAID[word]}" for word in VERDICTS if counts[word])
    lines = [f"Of {len(items)} tables, figures and claims, {said}."]
    speeds = [("", *pair) for pair in unseen(*PREDICTED).values()]
    peaks = [point for by_nodes in (False, True) for point in memory_points(by_nodes)]
    if speeds and peaks:
        lines.append(f"Throughput of a model that the planner has not seen is predicted with a median error of "
                     f"{percent(median_error(speeds))} ({len(speeds)} points), memory is simulated with "
                     f"{percent(median_error(peaks))} ({len(peaks)}).")  # fmt: skip
    shown = [claim for claim, each in answers(evidence, "finding") if each.verdict in SHOWN]
    if shown:
        lines.append("Shown here of how its numbers came about: " +
                     "; ".join(f"{claim['about']} ({claim['id']})" for claim in shown) + ".")  # fmt: skip
    return Reading(lines, [(claim, each) for claim, each in items if each.verdict == "differs"])


@dataclass
class Reading:
    """Sentences, then the items that differ, each with its reason."""

    sentences: list[str]
    differing: list[tuple[dict, Answer]]

    def _repr_html_(self) -> str:
        items = "".join(
            f"<li><strong>{claim['id']} {_safe(claim['about'])}.</strong> {_safe(claim['why'])}</li>"
            for claim, _ in self.differing
        )
        first, *others = (_safe(sentence) for sentence in self.sentences)
        said = f"<p><strong>{first}</strong></p>" + "".join(f"<p>{sentence}</p>" for sentence in others)
        return f"{said}<p>What differs, and why:</p><ul>{items}</ul>" if items else said

    def __repr__(self) -> str:
        return " ".join(self.sentences)


def _evidence(run) -> dict:
    return run.summary if run else {}


def _safe(text: str) -> str:
    return html.escape(text)
