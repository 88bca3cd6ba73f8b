"""What sentences that refuse a name or a table share: the nearest name, and separators that are no commas."""

from collections.abc import Iterable
from difflib import get_close_matches

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a sentence: `; did you mean 'x'?` for the nearest known name, else nothing.

    >>> did_you_mean("ViT-Femo", ["ViT-Femto", "ViT-3B"]), did_you_mean("cat", ["ViT-3B"])
    ("; did you mean 'ViT-Femto'?", '')

    A known name that it begins with comes first: ranks_per_node is near ranks.
    """
    capitals = {each.upper(): each for each in known}
    asked = str(name).upper()
    begun = [each for each in capitals if asked.startswith(f"{each}_")] if asked else []
    near = get_close_matches(asked, begun or capitals, n=1, cutoff=0.0 if begun else 0.5)
    return f"; did you mean '{capitals[near[0]]}'?" if near else ""


def other_separator(header: str, column: str) -> str:
    """What stands between the columns of a table in place of commas, if that makes ``column`` one of them; else ''.

    >>> other_separator("model;nodes", "model"), other_separator("model,nodes", "model")
    ('semicolons', '')
    """
    found = {name: [cell.strip(" \"'") for cell in header.split(mark)] for mark, name in SEPARATORS.items()}
    return next((name for name, cells in found.items() if column in cells and len(cells) > 1), "")
