"""The claims as a ledger: verdicts by how they were obtained, what stands behind them, and what would settle them.

``claims.csv`` names for each item its place in the paper, the cells of 06 that draw it (``shown``), what its numbers
come from (``behind``), and by patterns the rows of a grid that would settle or measure it on
GPUs (``settle``).
"""

from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache

from geofm_lib.paper import blind
from geofm_lib.paper.verdicts import HOW, VERDICTS, Answer
from geofm_lib.runs import grid, results

Items = Iterable[tuple[dict[str, str], Answer]]
GRID = "batch/grids/open_items.csv"
JUDGED = VERDICTS[:3]  # the verdicts that say something of the paper
BEHIND = {
    "findings": "this page's run of four findings",
    "unseen": "reports/unseen.csv, each model by a fit to the others",
    "predictions": f"reports/predictions.csv of commit {blind.COMMIT}, before the figures were seen",
    "simulated": "reports/simulated.csv",
    "speeds": "geofm_lib/catalog/speeds.csv, fitted to this figure",
    "accuracy": "reports/accuracy.csv (notebooks 07, 08 and 09)",
}
FILES = {name: text.split(" ")[0].rstrip(",") for name, text in BEHIND.items() if "/" in text}
"""What stands behind an item -> its file in the repository."""


def split(items: Items) -> dict[str, Counter[str]]:
    """Verdict -> how many items by how ours was obtained; "" where there is no verdict on the paper."""
    found: dict[str, Counter[str]] = {word: Counter() for word in VERDICTS}
    for _, each in items:
        found[each.verdict][each.how if each.verdict in JUDGED else ""] += 1
    return found


def obtained(word: str, by_how: Counter[str]) -> str:
    """How the items of a verdict were obtained, in brackets: (7 predicted, 1 counted); "" where it is no verdict."""
    return f" ({', '.join(f'{by_how[how]} {how}' for how in HOW if by_how[how])})" if word in JUDGED else ""


def settled(claim: dict[str, str], found: Answer) -> bool:
    """Has a measurement or a count of ours decided it, so that no run on GPUs is asked for?"""
    return found.verdict in JUDGED and found.how in ("measured", "counted")


def purpose(found: Answer) -> str:
    """What a run on GPUs would do for an item that is not settled: what is reproduced already is only measured."""
    return "measure" if found.verdict == "reproduced" else "settle"


def settling(claim: dict[str, str]) -> list[str]:
    """The names of the rows of GRID that would settle or measure an item."""
    patterns = claim["settle"].split()
    return [name for name in _names() if any(fnmatchcase(name, pattern) for pattern in patterns)]


@cache
def _names() -> list[str]:
    return [row["name"] for row in grid.texts(results.ROOT / GRID)]
