"""What speaks against a pretraining, by the numbers of its run: sentences with their evidence. No torch."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from geofm_lib.catalog.metrics import plus_minus

MIDDLE, END = (0.4, 0.6), 0.8  # shares of the steps: two fifths to three fifths are held against the last fifth
FLAT = 0.02  # of the loss: a second half that brings less is flat
ROWS = 30  # logged steps below which a curve says too little
CLOSE = 0.95  # of the loss of one brightness a patch: above it little more was learned
BRIGHTNESS = "one brightness a patch"  # the mean over pixels and bands, which MAE's normalised target takes away
GAP = 0.05  # of the train images' loss, from which on it counts that held-out images lose more


def doubts(summary: dict[str, Any], metrics: pd.DataFrame) -> list[dict[str, str]]:
    """Rows of (doubt, evidence, what to do), from a run's summary and its logged steps; [] where nothing does."""
    rows = [(doubt, evidence(summary, metrics), advice) for doubt, evidence, advice in RULES]
    return [dict(zip(("doubt", "evidence", "what to do"), row, strict=True)) for row in rows if row[1]]


def result(summary: dict[str, Any]) -> str:
    """The losses of a finished run, each with what it was measured on."""
    if summary.get("loss") is None:
        return "What the loss came to is told when the run has ended."
    if compares_alone(summary):
        return f"{views(summary)} {unseen(summary)}"
    if "patch_mean_loss" not in summary:  # an earlier version's
        return f"The last step's loss is {summary['loss']:.4f}. An earlier version measured none on held-out images."
    parts = [f"The mean loss of the last {summary['loss_steps']} steps is {summary['loss']:.3g}"]
    parts += [f"with masks that are always the same, {on(summary, 'trained_on')}"]
    if summary["held_out_side"]:
        parts[-1] += f", and {on(summary, 'held_out')}, which it was not trained on"
    else:
        parts += ["no image is held out, so there is no held-out loss"]
    if "mae_loss" in summary:
        parts[0] += ", that of MAE and the weighted contrastive one together; those with fixed masks are of MAE alone"
    guess, what = guessed(summary)
    told = f"{'; '.join(parts)}. {guess.capitalize()} alone ({what}) would have "
    return f"{told}{summary['patch_mean_loss']:.3g}."


def guessed(summary: dict[str, Any]) -> tuple[str, str]:
    """The plain guess whose loss is `patch_mean_loss`, and what it is."""
    if summary.get("dates"):
        return "interpolation", "straight lines between the visible dates"
    return BRIGHTNESS, "its true mean over pixels and bands"


def compares_alone(summary: dict[str, Any]) -> bool:
    """Was no patch rebuilt, but views compared?"""
    return summary.get("objective") == "contrastive"


def views(summary: dict[str, Any]) -> str:
    """What a contrastive loss came to, beside that of guessing."""
    told = f"The contrastive loss is {summary['loss']:.3g} (mean of the last {summary['loss_steps']} steps), where "
    return f"{told}guessing among all views of a step would have {summary['guessing_loss']:.3g}."


def unseen(summary: dict[str, Any]) -> str:
    """What it came to on images that were not trained on, under views that are the same in every run."""
    if summary.get("held_out_contrast") is None:
        return "Nothing was measured on held-out images; 05 asks what the features are worth."
    loss, of = (summary[f"held_out_contrast{each}"] for each in ("", "_guessing"))
    told = f"{summary['held_out_contrast_images']:,} {summary['held_out_contrast_side']} images that it never saw"
    told = f"Two views of each of {told}, the same in every run, are told from all others with {loss:.3g}"
    return f"{told} ± {summary['held_out_contrast_interval']:.2g} (95 %, over images), where guessing has {of:.3g}."


def side_by_side(summary: dict[str, Any]) -> str:
    """How the losses of one run differ in what they are of: crops, masks and images; "" without both sides."""
    trained, held = summary.get("trained_on_loss"), summary.get("held_out_loss")
    if trained is None or held is None:
        return ""
    noise = math.hypot(summary["held_out_interval"] or 0.0, summary["trained_on_interval"] or 0.0)
    gap = held - trained
    told = f"Held-out less train images, both of centre crops: {gap:+.3f}, " + (
        f"which is within the two intervals together (± {noise:.2g})" if abs(gap) <= noise
        else f"beyond the two intervals together (± {noise:.2g})")  # fmt: skip
    return f"{told}. The loss of the last steps is of random crops and masks, so it is another measure."


def slope(metrics: pd.DataFrame) -> str:
    """Whether the loss still falls at its end: the last fifth of the steps beside the middle one; "" of few steps."""
    found = _fifths(metrics)
    if not found:
        return ""
    middle, end, first, last = found
    change = 100 * (end - middle) / middle
    return (
        f"From step {last:,} on it is {end:.3g} on average, {abs(change):.1f} % {'below' if change < 0 else 'above'} "
        f"that of steps {first:,} to {_step(metrics, MIDDLE[1]):,}."
    )


def on(found: dict[str, Any], name: str) -> str:
    """The loss of `trained_on` or `held_out` images, with its interval and how many of which side they are."""
    count, side = found[f"{name}_images"], found["held_out_side"] if name == "held_out" else "train"
    loss = plus_minus(found[f"{name}_loss"], found[f"{name}_interval"])
    return f"{loss} on {count} {side} image{'s' * (count != 1)}"


def answer(summary: dict[str, Any], settings: dict[str, Any], images: str = "images") -> str:
    """What a pretraining came to in one sentence: held-out loss (else the best that was measured) and its yardstick.

    images: what it was trained on, in words.
    """
    if summary.get("loss") is None:
        return "The run has not ended, so what it converges to is not known yet."
    who = f"{settings.get('model', 'the model')}, {summary['epochs']} epochs"
    if compares_alone(summary):
        return f"{views(summary).removesuffix('.')} ({who})."
    if "patch_mean_loss" not in summary:  # an earlier version's
        return f"The last step's loss is {summary['loss']:.3f} ({who})."
    who += f" on {summary['train_images']:,} {images}" if summary.get("train_images") else ""
    side = summary["held_out_side"]
    name, where = ("held_out", f"{side} images that it never saw") if side else ("trained_on", "images it trained on")
    value, alone = summary[f"{name}_loss"], summary["patch_mean_loss"]
    told = plus_minus(value, summary[f"{name}_interval"])
    share = 100 * (1 - value / alone)
    beside = f"{share:.0f} % below" if share > 0 else f"{-share:.0f} % above"
    guess = ", ".join(guessed(summary))
    what = "MAE loss" if "mae_loss" in summary else "loss"
    return f"The {what} comes to {told} on {summary[f'{name}_images']} {where}, {beside} that of {guess} ({who})."


def _plateau(_: dict[str, Any], metrics: pd.DataFrame) -> str:
    """Is the last fifth hardly below the middle one? A mean of many steps each, since a step's loss is one batch's."""
    middle, end, first, last = _fifths(metrics) or (0.0, 0.0, 0, 0)
    if not (middle > 0 and middle - end < FLAT * middle):
        return ""
    fell = f"{100 * (middle - end) / middle:.1f} %"
    return f"{middle:.4f} on average from step {first} on, {end:.4f} from step {last} on: it fell by {fell} in between"


def _fifths(metrics: pd.DataFrame) -> tuple[float, float, int, int] | None:
    """(mean loss of the middle fifth of the steps, of the last, the step at which each begins); None of few rows."""
    if "loss" not in metrics or len(metrics) < ROWS:
        return None
    done = _done(metrics)
    middle, end = metrics["loss"][done.between(*MIDDLE)].mean(), metrics["loss"][done >= END].mean()
    return middle, end, _step(metrics, MIDDLE[0]), _step(metrics, END)


def _done(metrics: pd.DataFrame) -> pd.Series:
    return (metrics["step"] - metrics["step"].iloc[0]) / max(1, metrics["step"].iloc[-1] - metrics["step"].iloc[0])


def _step(metrics: pd.DataFrame, share: float) -> int:
    """The first logged step behind which this share of them is done."""
    return int(metrics["step"][_done(metrics) >= share].iloc[0])


def _patch_means(found: dict[str, Any], _: pd.DataFrame) -> str:
    return "" if found.get("dates") else _above_guess(found, CLOSE)


def _lines(found: dict[str, Any], _: pd.DataFrame) -> str:
    return _above_guess(found, 1.0) if found.get("dates") else ""


def _above_guess(found: dict[str, Any], share: float) -> str:
    name = "held_out" if found.get("held_out_loss") is not None else "trained_on"
    loss, alone = found.get(f"{name}_loss"), found.get("patch_mean_loss")
    if loss is None or not alone or loss <= share * alone:
        return ""
    return f"{on(found, name)}; {guessed(found)[0]} alone would have {alone:.3g}"


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
    ("little more than one brightness a patch was learned", _patch_means,
     "train for longer or at a higher base_learning_rate; look at what is rebuilt below"),
    ("dates are rebuilt no nearer than by interpolation", _lines,
     "train for longer, on more series, or with a mask_ratio that leaves longer gaps"),
    ("it knows its train images better than others", _gap,
     "more images, fewer epochs, or a smaller model; a smaller crop_scale_min makes more of the images there are"),
    ("no image is held out", _nothing_held_out, "prepare the set again with a train_ratio below 1 in 01, such as 0.95"),
)  # fmt: skip
"""(doubt, its evidence in a summary and curve or "", what to do), in the order in which they are shown."""
