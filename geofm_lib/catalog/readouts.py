"""How frozen features are read out, by which protocols, and what a row of `reports/accuracy.csv` says."""

from typing import NamedTuple

READOUTS = {  # what a head sees of an image's tokens behind the last block -> poolings of `model.vit`
    "mean": ("mean",),
    "class": ("cls",),
    "mean+spread+max+class": ("mean", "spread", "max", "cls"),
}
ORIENTATIONS = (1, 4, 8)  # features are means over so many: as it is, four quarter turns, these and their mirror images
PLAIN, WHOLE = "mean", "mean+spread+max+class"
EQUAL = 64  # features that PCA leaves of each encoder where they are compared at equal dimension
SCALED, EQUALLY = "standardised", f"standardised, PCA {EQUAL}"  # what a row calls a normalisation


class Protocol(NamedTuple):
    """How a head on frozen features is trained; `chosen` is what a validation part of the train side decides."""

    name: str
    head: str
    images: str
    chosen: str


PAPER, FAST, KNN, SUPERVISED, DATES = "paper", "fast", "knn", "supervised", "dates"
ANSWERS = (FAST, DATES)  # those that 05's answer and its first figure are of
SHOTS = (1, 5, 10, 20)  # training images of each class
SHARES = (0.1, 0.25, 0.5)  # of the train side
PROTOCOLS = (
    Protocol(
        PAPER,
        "linear layer behind batch normalisation without affine; LARS, cosine",
        "random crops, new ones each epoch or `views` in turn",
        "nothing: 0.1 per 256 images, or a stated rule where steps are few",
    ),
    Protocol(
        FAST,
        "logistic regression with L2 on standardised features; L-BFGS",
        "whole images, each once or as the mean over its orientations",
        "the strength of L2",
    ),
    Protocol(
        KNN,
        "nearest neighbours by cosine; a vote weighs exp(cosine / 0.07)",
        "as fast",
        "how many, and whether features are standardised, centred or left as they are",
    ),
    Protocol(
        SUPERVISED,
        "the whole network from scratch, a linear layer on the mean of the patch tokens; AdamW, cosine",
        "random crops of the own split's train side",
        "nothing",
    ),
    Protocol(
        DATES,
        "none: the nearest images of the other date by cosine of standardised features",
        "as fast, of pairs on the test side",
        "nothing",
    ),
)

ACCURACY = (
    "dataset", "split", "n_train", "n_test", "task", "metric", "model", "parameters_m", "objective", "pretraining_run",
    "images_seen", "flops", "protocol", "layer", "pooling", "normalisation", "shot", "pretraining_seed", "probe_seed",
    "top1", "top5", "value", "low", "high", "interval_kind", "difference_to_untrained", "source", "commit", "date",
    "machine",
)  # fmt: skip
"""Columns. value is in percent of metric, or in points where that ends in GAIN; low and high are its 95 % interval."""
GAIN = " minus untrained"  # ends a metric: of the encoder, less the mean over untrained ones under the same readout
PRETRAINED = "pretrained"  # the encoder that is probed
UNTRAINED = "untrained"  # the objective of an encoder with random weights
CONVOLUTIONS = "random convolutions"
HISTOGRAMS = "histograms"
CONTROLS = (HISTOGRAMS, CONVOLUTIONS)  # what no encoder has to do with, as rows name it in place of a model
MEASURED = ("top1", "top5", "value", "low", "high", "interval_kind", "difference_to_untrained", "commit", "date",
            "machine")  # fmt: skip
"""Columns that a new measurement of the same thing replaces; all others say what was measured."""


def pools(names: list[str], class_token: bool) -> tuple[str, ...]:
    """The poolings that some readouts need, each once; without the class token's where there is none."""
    found = dict.fromkeys(pool for name in names for pool in READOUTS[name])
    return tuple(pool for pool in found if class_token or pool != "cls")
