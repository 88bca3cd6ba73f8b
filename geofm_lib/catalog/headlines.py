"""What the headline of each kind of run is, and what must be equal before two runs may be ranked by it."""

import math
from dataclasses import dataclass
from typing import Any

from geofm_lib.catalog import metrics


@dataclass(frozen=True)
class Headline:
    """One number of a run's summary by which runs of a kind are ranked.

    `key`, `low`, `high` and `half` (of an interval) are names in the summary, in which METRIC stands for the probe's
    (`catalog/metrics`); of several with bars between them, the first that is there. `needs` are other names without
    which it is not this number; `alike` what must be equal beside the kind's own; `moved` settings that change this
    number alone: where they differ, it is not shown beside what is ranked.
    """

    words: str
    key: str
    unit: str = ""
    less: bool = False  # is less better?
    low: str = ""
    high: str = ""
    half: str = ""
    over: str = ""  # what the interval is over, in words
    needs: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    form: str = ".3g"

    def named(self, summary: dict[str, Any], name: str) -> Any:
        """What the summary has under one of the names above; None where it has nothing."""
        named = name.replace("METRIC", metrics.of(summary)).split("|")
        return next((summary[each] for each in named if summary.get(each) is not None), None)

    def told(self, value: float, unit: bool = True, half: float | None = None) -> str:
        """A value as text, with the digits that half of its interval allows where there is one.

        >>> Headline("held-out loss", "held_out_loss", form=".4f").told(0.5)
        '0.5000'
        >>> Headline("gain", "gain", " points", form="+.1f").told(15.0, half=0.123)
        '+15.00 points'
        """
        if half and math.isfinite(half):
            sign = "+" if self.form.startswith("+") and value >= 0 else ""
            text = sign + metrics.fixed(value, metrics.places(half))
        else:
            plain = self.form == ".3g"
            text = metrics.number(value) if plain else format(value, self.form).replace("-", metrics.MINUS)
        return text + self.unit * unit


@dataclass(frozen=True)
class Kind:
    """How runs of a job are compared: headlines, the first that a run has counts; `beside` are shown, never ranked by.

    alike: facts of a run (of its settings, summary, environment, or what its settings came to) that must be equal in a
    ranking. told: facts that may make a difference and are no setting. conditions: what an answer says where all
    runs share it.
    """

    headlines: tuple[Headline, ...]
    alike: tuple[str, ...]
    beside: tuple[Headline, ...] = ()
    told: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ("seed",)
    idle: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ("model", "image_size", "device")


STEADY = (
    "loss_steps",
    "crop_scale_min",
    "rotations",
    "loss_of",
)  # what the loss of the training's own crops depends on
OVER_IMAGES = "over the held-out images of one run, the same for all"
AFTER = ("profile_steps", "compare", "trace")  # of steps after the window: they move memory, and no speed
FAST = ("splits", "readout")
ACCURACY = (
    Headline("{METRIC}, fast protocol", "fast_value", " %", low="fast_low", high="fast_high", form=".1f",
             over="over the test images of one run", alike=FAST),
    Headline("{METRIC}, the paper's protocol", "METRIC_pretrained_mean|METRIC_random_mean", " %", form=".1f",
             half="METRIC_pretrained_interval|METRIC_random_interval", over="over the probe seeds of one encoder",
             alike=("views",)),
)  # fmt: skip
TRAINING = Headline("mean training loss of the last steps", "loss", less=True, form=".4f", needs=("loss_steps",),
                    alike=STEADY)  # fmt: skip
KINDS = {
    "pretrain": Kind(
        (
            Headline("held-out loss", "held_out_loss", less=True, half="held_out_interval", form=".4f",
                     over=OVER_IMAGES, alike=("held_out_side", "held_out_images")),
            TRAINING,
            Headline("training loss of the last step", "loss", less=True, form=".4f", alike=STEADY),
        ),
        ("data_fingerprint", "mask_ratio", "norm_pix_loss", "image_size", "patch"),
        (TRAINING,),
    ),
    "probe": Kind(
        (
            Headline("gain over untrained, {METRIC}", "gain", " points", low="gain_low", high="gain_high", form="+.1f",
                     over="over test images and untrained draws of one run", alike=FAST),
            *ACCURACY,
        ),
        ("data_fingerprint", "metric", "test_images"),
        ACCURACY,
        seeds=("seed", "encoder's seed"),
    ),
    "transfer": Kind(
        (
            Headline("gain over the same without pretraining, {METRIC}", "gain", " points", low="gain_low",
                     high="gain_high", form="+.1f", over="over the test images and seeds of one run",
                     alike=("gain_of",)),
            Headline("{METRIC}, fine-tuned", "value_fine-tuned", " %", form=".1f"),
        ),
        ("data_fingerprint", "task", "metric", "test_images", "train_images", "epochs"),
    ),
    "throughput": Kind(
        (Headline("speed, steady window", "images_per_s", " images/s", over="over the steps of one run"),),
        ("device", "workload", "image_size", "communication"),
        (Headline("peak memory, fullest rank", "peak_memory_gib", " GiB", moved=AFTER),),
        ("threads_per_rank", "torch"),
        idle=AFTER,
        conditions=("model", "workload", "precision", "image_size", "batch_per_gpu", "ranks", "device",
                    "threads_per_rank"),
    ),
    "simulate": Kind(
        (Headline("peak memory of one rank, simulated", "peak_memory_gib", " GiB", less=True),),
        ("workload", "image_size", "batch_per_gpu"),
        conditions=("model", "workload", "precision", "image_size", "batch_per_gpu", "ranks"),
    ),
}  # fmt: skip
WORDS = {
    "data_fingerprint": "the images (their fingerprint)", "mask_ratio": "the mask ratio",
    "norm_pix_loss": "the normalisation of targets", "image_size": "the size of images", "patch": "the size of patches",
    "metric": "the metric", "test_images": "the number of test images", "device": "the device",
    "held_out_side": "the side that is held out", "held_out_images": "the number of held-out images",
    "loss_of": "what the loss is of",
}  # fmt: skip


def words(headline: Headline, summary: dict[str, Any]) -> str:
    """A headline in words, with the summary's metric."""
    return headline.words.replace("{METRIC}", metrics.WORDS[metrics.of(summary)])


def of(job: str, summary: dict[str, Any]) -> Headline | None:
    """By what a run of this job is ranked: the first headline that its summary has; None where that is no number."""
    found = KINDS[job].headlines if job in KINDS else ()
    first = next((each for each in found if each.named(summary, each.key) is not None and _whole(each, summary)), None)
    return first if first and has(first, summary) else None


def has(headline: Headline, summary: dict[str, Any]) -> bool:
    """Does this summary hold the headline, as a finite number?"""
    value = headline.named(summary, headline.key)
    return isinstance(value, int | float) and math.isfinite(value) and _whole(headline, summary)


def _whole(headline: Headline, summary: dict[str, Any]) -> bool:
    return all(summary.get(each) is not None for each in headline.needs)
