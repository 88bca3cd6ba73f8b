"""02: does a pretraining converge, and which images went in and came out (01 shows those that go in)? No torch."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geofm_lib.advice import pretraining
from geofm_lib.catalog.datasets import DRAWN
from geofm_lib.catalog.metrics import LONG, number, rough
from geofm_lib.figures import rebuilt, series
from geofm_lib.figures._axes import BLUE, GREY, LIMIT, ORANGE, TRAINING_LOSS, WORDS, legend_below, own_look, smoothed
from geofm_lib.figures.display import NARROW_IN, Answer, Figure, Note, Table, axes, cut, sheet, styled
from geofm_lib.runs.run import Run
from geofm_lib.settings import expanded

COLUMNS = ("step", "epoch", "loss", "mae_loss", "learning_rate", "grad_norm", "not_measured")
MOST_ROWS = 21  # of the folded table
WITHHELD = "Images of this data set are left out of this page on purpose; the run folder holds them as {name}."


def images(run: Run) -> Note:
    """On how many images of which split it trains, what an epoch leaves out, and what 01 warns of."""
    found = run.summary
    if not found.get("train_images"):
        why = "an earlier version made it and did not note them" if run.finished else "that is told when it has ended"
        return Note(f"On how many images the run trains: {why}.")
    split = f" (split: {found['data_split']})" if found.get("data_split") else ""
    words = f"It trains on the {found['train_images']:,} images of the train side{split}, in "
    words += f"{found['steps'] // found['epochs']:,} steps an epoch of {found['global_batch']} images"
    if found["left_out_images"]:
        words += f". {found['left_out_images']:,} of them fill no batch and are left out, others in each epoch"
    return Note(". ".join([words, *(f"01 warns: {each}" for each in found.get("data_warnings", []))]) + ".")


def answer(run: Run) -> Answer:
    """Whether it converged, by the losses with fixed masks, and what speaks against it."""
    against = "; ".join(row["doubt"] for row in _doubts(run))
    more = []
    if "patch_mean_loss" in run.summary:
        more = [f"The ± is 95 % over these images, of one run (seed {run.settings.get('seed', 0)}), not over seeds."]
    told = rebuilt.kept(run)
    more += [f"Peak signal-to-noise ratio of the masked pixels of {rebuilt.beside(told)}."] if told else []
    more += [f"What speaks against it: {against}."] * bool(against)
    drawn, others = ("series", "series") if run.summary.get("dates") else ("scenes", "images")
    images = f"drawn (synthetic) {drawn}" if drawn_by_us(run.settings) else others
    return Answer(pretraining.answer(run.summary, run.settings, images), " ".join(more))


@styled
def loss(run: Run) -> Figure | Note:
    """Training loss beside held-out loss and that of patch means; of a branch, after the runs that it comes from.

    Where views are compared beside it, MAE's part of the loss; where they are compared alone, beside that of guessing.
    """
    column = "mae_loss" if "mae_loss" in run.metrics else "loss"
    before, own = _logged(run, column)
    if own.empty:
        return Note("The run logged no step, so there is no loss to draw.")
    metrics, found = pd.concat([before, own]), run.summary
    x, window = _x(metrics), 2 * (len(metrics) // 60) + 1
    figure, ax = axes(height=3.6)
    for part, colour, label in ((before, GREY, "before the branch"), (pd.concat([before.tail(1), own]), BLUE, "loss")):
        if part.empty:
            continue
        faint = {"alpha": 0.35, "linewidth": 1} if window > 1 else {}
        ax.plot(part[x], part[column], color=colour, label=f"{label}, each logged step", **faint)
        if window > 1:
            ax.plot(part[x], smoothed(part[column], window), color=colour, label=f"{label}, mean over {window} of them")
    words, end, span = [], metrics[x].iloc[-1], metrics[x].iloc[-1] - metrics[x].iloc[0]
    for name, aside in (("trained_on", 0.015), ("held_out", 0.035)):
        if found.get(f"{name}_loss") is not None:
            words.append(pretraining.on(found, name))
            side = found["held_out_side"] if name == "held_out" else "train"
            look = own_look(side, label=f"fixed masks: {words[-1]}", linestyle="", capsize=2)
            ax.errorbar(end + aside * span, found[f"{name}_loss"], found[f"{name}_interval"] or 0.0, **look)
    if "patch_mean_loss" in found:
        words.append(f"{pretraining.guessed(found)[0]}: {number(found['patch_mean_loss'])}")
        ax.axhline(found["patch_mean_loss"], **LIMIT, label=words[-1])
    alone = pretraining.compares_alone(found)
    if alone:
        ax.axhline(found["guessing_loss"], **LIMIT, label=f"guessing: {number(found['guessing_loss'])}")
    ax.set(xlabel=x, ylabel=TRAINING_LOSS + (", views of a step" if alone else ", masked patches"))
    legend_below(figure, [ax], 2)
    first, last = metrics[column].iloc[0], found.get("loss" if column == "loss" else "") or metrics[column].iloc[-1]
    change = f"{'falls' if last < first else 'rises'} from {number(first)} to {number(last)}"
    alt = f"The training loss {change} over {int(metrics['step'].iloc[-1]):,} steps."
    alt += f" With masks that are always the same, at the end: {'; '.join(words)}." if words else ""
    if not before.empty:
        alt += (
            f" Those until step {int(before['step'].iloc[-1])}, in grey, are of {' and '.join(before['run'].unique())}."
        )
    if "not_measured" in metrics:
        told = f"{100 * metrics['not_measured'].mean():.1f} % of the masked pixels were not measured and do not count"
        ax.set_title(told)
        alt += f" {told}."
    kept = np.unique(np.linspace(0, len(metrics) - 1, MOST_ROWS).astype(int))
    return Figure(figure, alt, metrics[[name for name in COLUMNS if name in metrics]].iloc[kept])


def result(run: Run) -> Note:
    """What the loss came to: over the last steps, and with fixed masks on train and on held-out images."""
    found, metrics = run.summary, run.metrics
    more = (pretraining.slope(metrics), pretraining.side_by_side(found)) if "patch_mean_loss" in found else ()
    return Note(" ".join(filter(None, [pretraining.result(found), *more])))


def doubts(run: Run) -> Table:
    """What speaks against a pretraining, with its evidence and what to do; one sentence when nothing does."""
    rows = _doubts(run)
    measured = "patch_mean_loss" in run.summary
    empty = (
        "None of the usual signs of a poor pretraining." if measured else "Its curve, as far as it goes, is not flat."
    )
    return Table(pd.DataFrame(rows), "What speaks against it", empty=empty)


def _doubts(run: Run) -> list[dict[str, str]]:
    """Those of its numbers, and one of its pictures: the mean colour of each patch may be as near."""
    told = rebuilt.kept(run)
    rows = pretraining.doubts(run.summary, run.metrics)
    if run.settings.get("norm_pix_loss") and told.get("colours", np.nan) >= told.get("rebuilt", np.nan):
        evidence = f"peak signal-to-noise ratio of the masked pixels of {rebuilt.beside(told)}"
        advice = "train for longer, on more images or a larger model; the probe (05) asks what the features are worth"
        doubt = "what it rebuilds is no nearer than the mean colour of each patch"
        rows.append({"doubt": doubt, "evidence": evidence, "what to do": advice})
    return rows


@styled
def learning_rate(run: Run) -> Figure | Note:
    """Learning rate and gradient norm along the loss's axis; of a branch, after the runs that it comes from."""
    before, own = _logged(run, "learning_rate")
    if own.empty:
        return Note("The run logged no learning rate.")
    rates, x = own["learning_rate"], _x(pd.concat([before, own]))
    alt = f"Line: the learning rate peaks at {number(rates.max())} and ends at {number(rates.iloc[-1])}."
    if not before.empty:
        alt += f" At the branch it goes from {number(before['learning_rate'].iloc[-1])} to {number(rates.iloc[0])}."
    curves = [("learning_rate", "learning rate", BLUE)]
    if "grad_norm" in own and own["grad_norm"].notna().any():
        curves.append(("grad_norm", "gradient norm", ORANGE))
        alt += f" Beside it the gradient norm, median {own['grad_norm'].median():.2g}."
    figure, panels = axes(height=2.5, columns=len(curves), squeeze=False)
    for ax, (column, words, colour) in zip(panels[0], curves, strict=True):
        if column in before and len(before):
            ax.plot(before[x], before[column], color=GREY, label="before the branch")
        ax.plot(own[x], own[column], color=colour, label=words)
        ax.set(xlabel=x, ylabel=words)
    legend_below(figure, panels[0]) if len(before) else None
    return Figure(figure, alt)


def _x(metrics: pd.DataFrame) -> str:
    """What all curves of a page are drawn against."""
    return "epoch" if "epoch" in metrics and metrics["epoch"].is_unique else "step"


def _logged(run: Run, column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that have this column: of the runs that a branch comes from, and of the run itself."""
    parts = [
        each if column in each else pd.DataFrame(columns=["step", column]) for each in (run.ancestors, run.metrics)
    ]
    return parts[0].dropna(subset=[column]), parts[1].dropna(subset=[column])


@styled
def probe_along(run: Run) -> Figure | Note:
    """What a quick probe found of the features at milestones of the training, beside what guessing gives."""
    frame = run.read_csv("probe_along.csv")
    if frame.empty:
        return Note("The features were not probed while they were trained; `probe_every` asks for it.")
    key = next(each for each in LONG if each in frame)
    logged = pd.concat(_logged(run, "loss"))
    x = _x(logged)
    if x == "epoch":
        frame["epoch"] = frame["step"] * (logged["epoch"] / logged["step"]).median()
    first, last = frame.iloc[0], frame.iloc[-1]
    figure, ax = axes(height=2.9)
    ax.plot(frame[x], frame[key], **own_look("pretrained"))
    ax.axhline(last["chance"], **LIMIT)
    ax.text(0, last["chance"], " chance", fontsize=8, color=WORDS, va="bottom")
    start = "before the first step" if first["step"] == 0 else f"after {first['step']:,.0f} steps, where it was begun"
    ax.set(xlabel=x, ylabel=f"{LONG[key]}, %", ylim=(0, None))
    seconds, steps = frame["seconds"].sum(), run.metrics
    cost = f"{len(frame)} probes took {rough(seconds)} s"
    if "step_s" in steps:
        cost += (
            f", {rough(100 * seconds / (seconds + steps['step_s'].median() * last['step']))} % of the training's time"
        )
    ax.set_title(cost)
    alt = f"Line: {LONG[key]} of {last['test_images']:,.0f} test images, by ridge regression on frozen features, "
    alt += f"goes from {first[key]:.1f} % {start} to {last[key]:.1f} % after {last['step']:,.0f} steps"
    return Figure(figure, f"{alt}; chance {last['chance']:.1f} %. {cost}.", frame.drop(columns="data"))


def contact_sheet(run: Run, columns: int = 8) -> Figure | Note:
    """A few images of each class."""
    if withheld(run):
        return Note(WITHHELD.format(name="contact_sheet.npz"))
    with np.load(run.proved("contact_sheet.npz")) as saved:
        if "series" in saved:
            return series.sheet(dict(saved))
        images, labels = saved["images"], [str(label) for label in saved["labels"]]
    titles = [cut(label, 16) for label in labels]
    alt = f"{len(images)} images of the data set (every second one on a phone): {', '.join(dict.fromkeys(labels))}."
    narrow = sheet(_in_rows(images[::2], columns // 2), titles[::2], width=NARROW_IN)
    return Figure(sheet(_in_rows(images, columns), titles), alt, photo=True, narrow=narrow)


def _in_rows(images: np.ndarray, columns: int) -> list[np.ndarray]:
    return [images[start : start + columns] for start in range(0, len(images), columns)]


def model_view(run: Run) -> Figure | Note:
    """The same images as stored, as cropped for training, and with the masked patches taken away."""
    if run.summary.get("dates"):
        return Note("A model sees every date of a series as it is stored, normalised; 02 masks some of them.")
    names = {"original": "stored", "cropped": "cropped", "masked": "visible patches"}
    words = "the stored image, the random crop that training takes, and the patches left after masking"
    return _rows(run, "model_view.npz", names, words)


def reconstruction(run: Run) -> Figure | Note:
    """Images that are held out, else of the train side; what the model saw, what it rebuilt, and two plain guesses."""
    if run.settings.get("objective") == "contrastive":
        return Note("Contrastive learning masks and rebuilds nothing; 05 asks what the features are worth.")
    side = run.summary.get("rebuilt", "")  # an earlier version took train images too, and did not say so
    if run.summary.get("dates") and not withheld(run):
        with np.load(run.proved("reconstruction.npz")) as saved:
            return series.rebuilt(dict(saved), side)
    names = {"original": f"{side} image".strip(), "masked": "visible patches", "rebuilt": "rebuilt"}
    trained = {"train": ", which it was trained on since no image is held out", "": " of a side that was not noted"}
    words = f"the {names['original']}{trained.get(side, '')}, the patches that the model saw, "
    words += "and the image that it rebuilt from them"
    if run.settings.get("norm_pix_loss"):
        words += ", with each masked patch's mean and contrast put back from the original"
    if run.settings.get("band_groups"):
        words += "; groups of bands are masked apart, so a place may lack some of its colours alone"
    return _rows(run, "reconstruction.npz", names, words, functools.partial(_errors, rebuilt.patch(run)))


def _errors(patch: int, arrays: dict[str, np.ndarray], names: dict[str, str]) -> str:
    """A sentence on the errors of what was rebuilt and of plain guesses, which become rows; "" for older files."""
    if "means" not in arrays:
        return " An earlier version kept nothing to compare it with."
    told = rebuilt.ratios(arrays, patch)
    if "colours" in told:
        arrays["colours"] = rebuilt.colours(arrays, patch)
    for name, words in (("rebuilt", "rebuilt"), ("means", "one brightness\na patch,"), ("colours", "mean colour")):
        if name in told:
            names[name] = f"{words}{' ' if name == 'means' else chr(10)}{rebuilt.decibels(told[name])}"
    last = " Last row: the true mean colour of each masked patch, one value a band." if "colours" in told else ""
    return (f" Then each masked patch is its own true brightness, one value for all bands, as if nothing else had been "
            f"learned.{last} Peak signal-to-noise ratio of the masked pixels: {rebuilt.listed(told)}.")  # fmt: skip


def withheld(run: Run) -> bool:
    """Whether GEOFM_PICTURES=builtin asks to leave this run's images out: those of any set but the built-in one."""
    return os.environ.get("GEOFM_PICTURES", "all") == "builtin" and not drawn_by_us(run.settings)


def drawn_by_us(settings: dict[str, Any]) -> bool:
    """Whether the images are the built-in ones; `data` (a prepared folder) says more than `dataset`."""
    if settings.get("data"):
        settings = Run(expanded(settings["data"])).settings
    return settings.get("dataset") in DRAWN


def _rows(
    run: Run, file: str, names: dict[str, str], words: str, more: Callable[[Any, dict[str, str]], str] = lambda *_: ""
) -> Figure | Note:
    """A sheet whose rows are the arrays `names` of an npz in the run folder; `more` may add rows, and a sentence."""
    if withheld(run):
        return Note(WITHHELD.format(name=file))
    path = run.proved(file)
    if not path.is_file():
        return Note(f"The run has not written {file} (it is written when the run finishes).")
    with np.load(path) as saved:
        arrays = dict(saved)
    told = more(arrays, names)
    rows = [arrays[name][:8] for name in names]
    fewer = " (the first 4 on a phone)" if len(rows[0]) > 4 else ""
    alt = f"{len(rows[0])} images in columns{fewer}. Rows: {words}.{told}"
    narrow = sheet([row[:4] for row in rows], names=list(names.values()), width=NARROW_IN)
    return Figure(sheet(rows, names=list(names.values())), alt, photo=True, narrow=narrow)


def save_rebuilt(run: Run, file: Path) -> Path:
    """Save what a pretraining on the built-in scenes rebuilt (README's image); other images are not ours to publish."""
    figure = reconstruction(run)
    if not drawn_by_us(run.settings) or isinstance(figure, Note):
        raise ValueError(f"'{run.folder}' has rebuilt none of the built-in scenes; other images stay in the run folder")
    file.write_bytes(figure.encoded)
    return file
