"""Named recipes of 02: settings that make a step cheaper, kept only where they cost no accuracy (reports/LOG.md)."""

from collections.abc import Mapping
from typing import Any, Literal

Name = Literal["standard", "fast"]
# MAE's Table 1a: what is fine-tuned hardly misses the decoder's other blocks, a linear probe may.
RECIPES: dict[str, dict[str, int]] = {"standard": {}, "fast": {"decoder_depth": 1}}


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the recipe in `values` sets, for settings that are not there or at 0, which is the model's own.

    >>> filled({"recipe": "fast"}), filled({"recipe": "fast", "decoder_depth": 2}), filled({})
    ({'decoder_depth': 1}, {}, {})
    """
    own = RECIPES.get(str(values.get("recipe")), {})
    return {name: value for name, value in own.items() if not values.get(name)}


def refuse(values: Mapping[str, Any]) -> None:
    """Raise ValueError, one sentence, for a setting that is not what the recipe says."""
    for name, value in RECIPES[values["recipe"]].items():
        if values[name] != value:
            raise ValueError(
                f"{name}: {values[name]!r} is not of recipe={values['recipe']}, which sets {value}; leave out one of "
                "them"
            )
