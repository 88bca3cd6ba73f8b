"""What a pretraining learns from: rebuilding patches (MAE), telling views of images apart (contrastive), or both.

Which settings mean something under which objective is a table. One that means nothing there, and is not at its
default, is refused.
"""

from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["mae", "contrastive", "both"]
Positives = Literal["views", "dates"]
REBUILDS = ("mask_ratio", "norm_pix_loss", "group_masks", "recipe", "decoder_width", "decoder_depth", "decoder_heads")
CONTRASTS = ("positives", "temperature", "projection", "colour_jitter")
# objective -> {setting: why it says nothing there}
IDLE: dict[str, dict[str, str]] = {
    "mae": {
        **dict.fromkeys(CONTRASTS, "MAE compares no views; set objective=contrastive or both as well"),
        "contrast_weight": "it weighs the contrastive loss beside MAE's; set objective=both as well",
    },
    "contrastive": {
        **dict.fromkeys(
            REBUILDS, "contrastive learning masks and rebuilds nothing; leave it out, or set objective=both"
        ),
        "contrast_weight": "it weighs the contrastive loss beside MAE's; leave it out, or set objective=both",
    },
    "both": {},
}


def rebuilds(objective: str) -> bool:
    """Are patches masked and rebuilt?"""
    return objective != "contrastive"


def contrasts(objective: str) -> bool:
    """Are two views of each image compared with those of all others?"""
    return objective != "mae"


def words(objective: str, positives: str = "views") -> str:
    """An objective as a table of accuracies calls it.

    >>> words("mae"), words("contrastive"), words("both", "dates")
    ('MAE', 'contrastive (two views)', 'MAE + contrastive (two dates)')
    """
    parts = ["MAE"] * rebuilds(objective) + [f"contrastive (two {positives})"] * contrasts(objective)
    return " + ".join(parts)


COMPARED = MAE, TWO_VIEWS, TWO_DATES, BOTH = (
    words("mae"), words("contrastive"), words("contrastive", "dates"), words("both", "dates"),
)  # fmt: skip
"""Those that 09 compares."""


def refuse(objective: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ValueError, one sentence, for a setting that says nothing under this objective, or too small a batch."""
    for name, why in IDLE[objective].items():
        if values[name] != defaults[name]:
            raise ValueError(f"{name}: {values[name]!r} says nothing with objective={objective}: {why}")
    if contrasts(objective) and values["global_batch"] < 2:
        raise ValueError(
            f"global_batch: {values['global_batch']} image has no other to be told apart from, which "
            f"objective={objective} needs; use at least 2"
        )


def refuse_parts(objective: str, parts: int, global_batch: int, ranks: int) -> None:
    """Raise ValueError, one sentence, where the images of one step would not be compared with all others of it."""
    if contrasts(objective) and parts > 1:
        raise ValueError(
            f"max_batch_per_rank: objective={objective} compares all {global_batch} images of a step with each other, "
            f"so {ranks} rank{'s' * (ranks > 1)} cannot take them in {parts} parts; set max_batch_per_rank=0, and "
            "activation_checkpointing=True, more ranks or a smaller global_batch for less memory"
        )
