"""`; did you mean ...?`, for every sentence that refuses a name."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a sentence: `; did you mean 'x'?` for the nearest known name, else nothing.

    >>> did_you_mean("ViT-Femo", ["ViT-Femto", "ViT-3B"]), did_you_mean("cat", ["ViT-3B"])
    ("; did you mean 'ViT-Femto'?", '')
    """
    capitals = {each.upper(): each for each in known}
    near = get_close_matches(str(name).upper(), capitals, n=1, cutoff=0.5)
    return f"; did you mean '{capitals[near[0]]}'?" if near else ""
