"""What speaks against a pretraining, by the numbers of its run: sentences with their evidence. No torch."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from geofm_lib.catalog.metrics import plus_minus

MIDDLE, END = (0.4, 0.6), 0.8  # shares of the steps: two fifths to three fifths are held against the last fifth
FLAT = 0.02  # of the loss: a second half that brings less is flat
ROWS = 30  # logged steps below which a curve says too little
CLOSE = 0.95  # of the loss of the patch means: above it little more than brightness was learned
GAP = 0.05  # of the train images' loss, from which on it counts that held-out images lose more


def doubts(summary: dict[str, Any], metrics: pd.DataFrame) -> list[dict[str, str]]:
    """Rows of (doubt, evidence, what to do), from a run's summary and its logged steps; [] where nothing does."""
    rows = [(doubt, evidence(summary, metrics), advice) for doubt, evidence, advice in RULES]
    return [dict(zip(("doubt", "evidence", "what to do"), row, strict=True)) for row in rows if row[1]]


def result(summary: dict[str, Any]) -> str:
    """The losses of a finished run, each with what it was measured on."""
    if summary.get("loss") is None:
        return "What the loss came to is told when the run has ended."
    if "patch_mean_loss" not in summary:  # an earlier version's
        return f"The last step's loss is {summary['loss']:.4f}. An earlier version measured none on held-out images."
    parts = [f"The mean loss of the last {summary['loss_steps']} steps is {summary['loss']:.3g}"]
    parts += [f"with masks that are always the same, {on(summary, 'trained_on')}"]
    if summary["held_out_side"]:
        parts[-1] += f", and {on(summary, 'held_out')}, which it was not trained on"
    else:
        parts += ["no image is held out, so there is no held-out loss"]
    return f"{'; '.join(parts)}. The mean of each patch alone would have {summary['patch_mean_loss']:.3g}."


def on(found: dict[str, Any], name: str) -> str:
    """The loss of `trained_on` or `held_out` images, with its interval and how many of which side they are."""
    count, side = found[f"{name}_images"], found["held_out_side"] if name == "held_out" else "train"
    loss = plus_minus(found[f"{name}_loss"], found[f"{name}_interval"])
    return f"{loss} on {count} {side} image{'s' * (count != 1)}"


def answer(summary: dict[str, Any], settings: dict[str, Any]) -> str:
    """What a pretraining came to in one sentence: held-out loss (else the best that was measured) and its yardstick."""
    if summary.get("loss") is None:
        return "The run has not ended, so what it converges to is not known yet."
    who = f"{settings.get('model', 'the model')}, {summary['epochs']} epochs"
    if "patch_mean_loss" not in summary:  # an earlier version's
        return f"The last step's loss is {summary['loss']:.3f} ({who})."
    who += f" on {summary['train_images']:,} images" if summary.get("train_images") else ""
    side = summary["held_out_side"]
    name, where = ("held_out", f"{side} images that it never saw") if side else ("trained_on", "images it trained on")
    value, alone = summary[f"{name}_loss"], summary["patch_mean_loss"]
    told = plus_minus(value, summary[f"{name}_interval"])
    share = 100 * (1 - value / alone)
    beside = f"{share:.0f} % below" if share > 0 else f"{-share:.0f} % above"
    return (
        f"The loss comes to {told} on {summary[f'{name}_images']} {where}, {beside} what the mean of each "
        f"patch alone has ({who})."
    )


def _plateau(_: dict[str, Any], metrics: pd.DataFrame) -> str:
    """Is the last fifth hardly below the middle one? A mean of many steps each, since a step's loss is one batch's."""
    if "loss" not in metrics or len(metrics) < ROWS:
        return ""
    done = (metrics["step"] - metrics["step"].iloc[0]) / max(1, metrics["step"].iloc[-1] - metrics["step"].iloc[0])
    middle, end = metrics["loss"][done.between(*MIDDLE)].mean(), metrics["loss"][done >= END].mean()
    if not (middle > 0 and middle - end < FLAT * middle):
        return ""
    first, last = (int(metrics["step"][done >= share].iloc[0]) for share in (MIDDLE[0], END))
    fell = f"{100 * (middle - end) / middle:.1f} %"
    return f"{middle:.4f} on average from step {first} on, {end:.4f} from step {last} on: it fell by {fell} in between"


def _patch_means(found: dict[str, Any], _: pd.DataFrame) -> str:
    name = "held_out" if found.get("held_out_loss") is not None else "trained_on"
    loss, alone = found.get(f"{name}_loss"), found.get("patch_mean_loss")
    if loss is None or not alone or loss <= CLOSE * alone:
        return ""
    return f"{on(found, name)}; the mean of each masked patch alone would have {alone:.3g}"


def _gap(found: dict[str, Any], _: pd.DataFrame) -> str:
    held, trained = found.get("held_out_loss"), found.get("trained_on_loss")
    if held is None or trained is None:
        return ""
    noise = math.hypot(found["held_out_interval"] or 0.0, found["trained_on_interval"] or 0.0)
    if held - trained <= max(noise, GAP * trained):
        return ""
    both = f"{on(found, 'held_out')}, {on(found, 'trained_on')}"
    return f"{both}: {100 * (held / trained - 1):.0f} % more, under the same masks"


def _nothing_held_out(found: dict[str, Any], _: pd.DataFrame) -> str:
    return "all images train, so nothing says how it does on others" if found.get("held_out_side") == "" else ""


Evidence = Callable[[dict[str, Any], pd.DataFrame], str]
RULES: tuple[tuple[str, Evidence, str], ...] = (
    ("the loss is flat over the second half", _plateau,
     "more of the same steps bring little: a larger model, more images, another base_learning_rate, or fewer epochs"),
    ("little more than the mean of each patch was learned", _patch_means,
     "train for longer or at a higher base_learning_rate; look at what is rebuilt below"),
    ("it knows its train images better than others", _gap,
     "more images, fewer epochs, or a smaller model; a smaller crop_scale_min makes more of the images there are"),
    ("no image is held out", _nothing_held_out, "prepare the set again with a train_ratio below 1 in 01, such as 0.95"),
)  # fmt: skip
"""(doubt, its evidence in a summary and curve or "", what to do), in the order in which they are shown."""
