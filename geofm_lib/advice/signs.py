"""Signs in the numbers of a finished run: why its steps are slow, what speaks against a probe, what to do. No torch."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from geofm_lib.catalog import metrics, strategies

UNTRAINED = {"top1": 0.7, "map": 0.9}  # of the loss of guessing: above it a head has not been trained far
FEW = 10  # training images a class, below which a probe says little
LOST = 2.0  # points of top-1 lost since the best epoch, from which on a head is overfitted
SLOW_RANK = 1.3  # times the others' own work, from which on a rank is named
PARTS = ("data", "forward", "backward", "communication", "optimiser", "other")


def slow(ranks: pd.DataFrame, asked: dict[str, Any], where: dict[str, Any]) -> list[tuple[str, str]]:
    """(what stands out in a step, what to change), the largest part first, of a run's ranks, settings, environment."""
    rows, parts = _slow_rank(ranks), shares(ranks)
    for part, least, words, advice in sorted(RULES, key=lambda rule: -parts.get(rule[0], 0.0)):
        if parts.get(part, 0.0) >= least:
            rows.append((f"{100 * parts[part]:.0f} % of the step is {words}.", advice(asked, where)))
    return rows


def shares(ranks: pd.DataFrame) -> dict[str, float]:
    """Share of each of PARTS in the step, from ranks.csv; {} of a run that measured none.

    Waiting for images is that of the steady window, since between profiled steps a loader has time to read ahead.
    Communication is that of the rank that waits least: what the others wait beyond it is for that rank's work.
    """
    if "data_s" not in ranks:
        return {}
    found = {"data": (ranks["data_s"] / ranks["step_s"]).mean()}
    for name in PARTS[1:]:
        if f"profiled_{name}_s" in ranks:
            each = ranks[f"profiled_{name}_s"] / ranks["profiled_step_s"]
            found[name] = each.min() if name == "communication" else each.mean()
    return {name: float(share) for name, share in found.items()}


def _slow_rank(ranks: pd.DataFrame) -> list[tuple[str, str]]:
    """The rank that the others wait for, if there is one."""
    if len(ranks) < 2 or "profiled_step_s" not in ranks:
        return []
    own = ranks["profiled_step_s"] - ranks["profiled_communication_s"]
    worst = own.idxmax()
    ratio = own[worst] / own.drop(worst).median()
    if ratio < SLOW_RANK:
        return []
    rank, host = ranks.loc[worst, "rank"], ranks.loc[worst, "host"]
    found = f"Rank {rank} on {host} works {ratio:.1f} times as long as the others, and they wait for it."
    advice = f"Look for what else runs on {host}, and for its clock; or leave it out (sbatch --exclude={host})."
    return [(found, advice)]


def _images(asked: dict[str, Any], where: dict[str, Any]) -> str:
    if asked.get("input") != "real":
        return "Synthetic images are drawn once; what takes time here is the masking noise or the labels."
    workers = asked["workers"]
    most = max(1, where.get("cores", 1) * max(1, len(where.get("nodes", []))) // max(1, where.get("ranks", 1)))
    more = min(max(2, 2 * workers), most)
    if more > workers:
        return f"Raise workers from {workers} to {more}; or store smaller images (01's short_side)."
    return "Every core has its worker already: store smaller images (01's short_side), or use fewer ranks a node."


def _communication(asked: dict[str, Any], where: dict[str, Any]) -> str:
    row = strategies.lookup(asked["strategy"])
    ways = [f"more images per GPU than {asked['batch_per_gpu']}"]
    if row.shard_group != 1:
        ways.insert(0, "NO_SHARD or DDP (gather nothing), if the whole model fits on each rank")
    if row.reshard_after_forward and row.shard_group != 1:
        fewer = "SHARD_GRAD_OP (gathers once a step) or HYBRID_kGPUs with the k GPUs of a node, if memory allows"
        ways.insert(0, fewer)
    if not row.ddp and asked["forward_prefetch"] == 0:
        ways.insert(0, "forward_prefetch=1")
    if asked["precision"] == "fp32":
        ways.append("precision=bf16, which sends half the bytes")
    elif asked.get("reduce_dtype", "bf16") == "fp32":
        ways.append("reduce_dtype=bf16, which reduces half the bytes, less exactly")
    return f"Try {'; '.join(ways)}."


Advice = Callable[[dict[str, Any], dict[str, Any]], str]  # of settings, and environment with `ranks` and `nodes`
RULES: tuple[tuple[str, float, str, Advice], ...] = (
    ("data", 0.2, "spent waiting for images", _images),
    ("communication", 0.15, "exposed communication", _communication),
    ("optimiser", 0.25, "the optimiser", lambda asked, where: "More images per GPU, or a larger shard group: each rank "
     "updates its own part of the weights only."),
    ("other", 0.1, "in none of its phases", lambda asked, where: "The host is busy between the phases: trace=True "
     "keeps the profiler's trace, which says with what."),
)  # fmt: skip
"""(part of the step, the share from which on it is named, in which words, what to change)"""
NAMED = ", ".join(f"{100 * least:.0f} % {words}" for _, least, words, _ in RULES)


def doubts(summary: dict[str, Any], curves: pd.DataFrame) -> list[dict[str, str]]:
    """What speaks against a probe: rows of (doubt, evidence, what to do), from its summary and probe.csv."""
    rows = [
        (doubt, evidence(summary, curves), advice(summary) if callable(advice) else advice)
        for doubt, evidence, advice in PROBE
    ]
    return [dict(zip(("doubt", "evidence", "what to do"), row, strict=True)) for row in rows if row[1]]


def _not_above(found: dict[str, Any], other: str, half: str, name: str) -> str:
    """'' when the pretrained encoder is above another by more than the intervals, which add in squares."""
    key = metrics.of(found)
    other, half = (each.replace("METRIC", key) for each in (other, half))
    mean, beside = found.get(f"{key}_pretrained_mean"), found.get(other)
    if mean is None or beside is None:
        return ""
    own, theirs = (found.get(each) or _binomial(found, each) for each in (f"{key}_pretrained_interval", half))
    if mean - beside > math.hypot(own, theirs):
        return ""
    return f"{mean:.1f} ± {own:.1f} % {metrics.WORDS[key]}, {name} {beside:.1f} ± {theirs:.1f} %"


def _binomial(found: dict[str, Any], half: str) -> float:
    """The 95 % half-width of top-1 over the test images, for a single seed, which has no spread of its own."""
    if not half.startswith("top1") and "histograms_top1" not in found:
        return 0.0  # mean average precision is no share of images
    share = found[half.replace("_interval", "_mean" if half.startswith("top1") else "_top1")] / 100
    return 196 * math.sqrt(share * (1 - share) / found["test_images"])


def _untrained(found: dict[str, Any], _: pd.DataFrame) -> str:
    """LARS moves the weights by a thousandth of the rate a step. 360 steps of the protocol's rate (a thousand images,
    90 epochs) leave the head almost as it began."""
    if "head_steps" not in found:  # the fast protocol has no steps
        return ""
    guessing = found.get("guess_loss") or math.log(found["classes"])
    steps = f"after {found['head_steps']} steps the loss is {found['loss']:.2f}, and guessing gives {guessing:.2f}"
    return steps if found["loss"] > UNTRAINED[metrics.of(found)] * guessing else ""


def _few_images(found: dict[str, Any], _: pd.DataFrame) -> str:
    if "classes" not in found:  # places are sought, not classes
        return ""
    if "fewest_train" not in found:  # an older run
        each = found["train_images"] / found["classes"]
        return f"{each:.1f} training images a class" if each < FEW else ""
    least = found["fewest_train"]
    return f"{least} training images of '{found['fewest_class']}', the fewest of a class" if least < FEW else ""


def _more_images(found: dict[str, Any]) -> str:
    given = str(found.get("data_split", "")).startswith("given")
    more = "label more images" + ("" if given else ", or raise train_ratio in 01")
    return f"{more}; read the intervals first"


def _unlearned(found: dict[str, Any], _: pd.DataFrame) -> str:
    """As `jobs.probe_summary` counted them."""
    classes = found.get("unlearned") or {}
    if not classes:
        return ""
    shown = ", ".join(f"'{name}' ({count} test images)" for name, count in list(classes.items())[:3])
    share = f"{sum(classes.values())} of {found['test_images']} test images"
    return f"no training image of {shown}{' and others' * (len(classes) > 3)}: {share} cannot come out right"


def _warned(found: dict[str, Any], _: pd.DataFrame) -> str:
    warnings = found.get("data_warnings") or []
    return "; ".join([*warnings[:1], *([f"and {len(warnings) - 1} more"] if len(warnings) > 1 else [])])


def _overfitted(found: dict[str, Any], curves: pd.DataFrame) -> str:
    if curves.empty:
        return ""
    key = metrics.of(found)
    own = curves[curves["features"] == curves["features"].iloc[0]].groupby("epoch")[[key, "loss"]].mean()
    best, last = own[key].idxmax(), own.index[-1]
    lost = own[key][best] - own[key][last]
    if lost <= LOST or own["loss"][last] >= own["loss"][best]:
        return ""
    words = f"{metrics.WORDS[key]} on the test side fell by {lost:.1f} points after epoch {best}"
    return f"{words} while the training loss kept falling"


def _seen(found: dict[str, Any], _: pd.DataFrame) -> str:
    exact, near = found.get("seen_exact", 0), found.get("seen_near", 0)
    if not exact + near:
        return ""
    return f"{exact} of {found['test_images']} test images were pretrained on, and {near} that look nearly the same"


def _neighbours(found: dict[str, Any], _: pd.DataFrame) -> str:
    count = found.get("seen_place", 0)
    words = "lie within 100 m of ground that was pretrained on"
    return f"{count} of {found['test_images']} test images {words}" if count else ""


def _not_known(found: dict[str, Any], _: pd.DataFrame) -> str:
    how = found.get("pretrained_on", "known")  # an older probe never asked
    return "" if how == "known" else f"which images the encoder was pretrained on is {how}"


def _no_gain(found: dict[str, Any], _: pd.DataFrame) -> str:
    if found.get("gain_low", 1.0) > 0:
        return ""
    words = f"{found['gain']:+.1f} points ({found['gain_low']:+.1f} to {found['gain_high']:+.1f})"
    return f"under {found['readout']}, pretraining adds {words} to the same architecture untrained"


def _below_histograms(found: dict[str, Any], _: pd.DataFrame) -> str:
    beside = found.get("fast_histograms")
    if beside is None or found.get("fast_low", beside + 1) > beside:
        return ""
    return (
        f"{found['fast_value']:.1f} % ({found['fast_low']:.1f} to {found['fast_high']:.1f}), histograms {beside:.1f} %"
    )


_PRETRAIN_MORE = (
    "pretrain for longer, or on more images like these, until 02's loss is well below its start; probe at a larger "
    "image_size, up to the images' own, also where the pretraining's was smaller"
)
_LARGER = (
    "colours and gradients alone tell these classes apart as well: pretrain for longer or a larger model, or try "
    "another readout"
)
Evidence = Callable[[dict[str, Any], pd.DataFrame], str]
PROBE: tuple[tuple[str, Evidence, str | Callable[[dict[str, Any]], str]], ...] = (
    ("classes without a training image", _unlearned,
     "give training images of them, use another split (split=random in 01), or leave their images out"),
    ("01 warned of the data", _warned, "read 01's page of this data set (look here), and mend what is meant otherwise"),
    ("it has seen test images", _seen,
     "pretrain without them (a union of prepared sets leaves them out), or probe on other images"),
    ("it has seen their neighbours", _neighbours,
     "pretrain without these places: prepare both sets as one, by scene or block, so that no place is on two sides"),
    ("it may have seen test images", _not_known,
     "pretrain with this version, whose encoders keep fingerprints; of a foreign encoder read its authors' data"),
    ("the head is hardly trained", _untrained,
     "raise base_learning_rate (0.1 is for a million images; a few thousand need 10 to 30) or epochs, before anything "
     "else is believed"),
    ("few images a class", _few_images, _more_images),
    ("pretraining adds nothing that is clear", _no_gain, _PRETRAIN_MORE),
    ("no better than histograms", _below_histograms, _LARGER),
    ("no better than untrained (LARS)",
     lambda found, _: _not_above(found, "METRIC_random_mean", "METRIC_random_interval", "untrained"),
     _PRETRAIN_MORE),
    ("no better than histograms (LARS)",
     lambda found, _: _not_above(found, "histograms_METRIC", "histograms_interval", "histograms"), _LARGER),
    ("the head is overfitted", _overfitted, "fewer epochs, more views, or some weight_decay"),
)  # fmt: skip
"""(doubt, its evidence in a summary and curves or "", what to do), in the order in which they are shown."""
