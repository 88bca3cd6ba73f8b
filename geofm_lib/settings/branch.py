"""A branch: a pretraining that goes on from a step of another, under settings that it names; all others are as there.

Only the settings in MAY_CHANGE may differ, and those that say where and how a run is executed. This is the one place
where settings come from a file: the `settings.json` of the run that is branched.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geofm_lib import files
from geofm_lib.settings.base import SettingsError
from geofm_lib.settings.places import at_step, expanded, instead, one_spelling, runs_root
from geofm_lib.settings.stored import SETTINGS, way_out

if TYPE_CHECKING:
    from geofm_lib.settings.pretrain import PretrainSettings

MAY_CHANGE = (
    "epochs",
    "warmup_epochs",
    "schedule",
    "cooldown_epochs",
    "base_learning_rate",
    "weight_decay",
    "clip_grad_norm",
    "precision",
    "reduce_dtype",
    "skip_steps",
)
SHAPES, ORDER = "its weights have that shape", "its steps count other images then"
LOSS, FIRST = "its loss means something else then", "its weights are long begun"
GROUPS = "its optimiser has other groups of weights then"
FIXED = {  # -> why; `data` may be another folder of the same images
    **dict.fromkeys(
        ("model", "patch_size", "image_size", "recipe", "decoder_width", "decoder_depth", "decoder_heads"), SHAPES
    ),
    **dict.fromkeys(("dataset", "images_per_class", "train_images", "global_batch", "seed"), ORDER),
    **dict.fromkeys(("objective", "projection", "band_groups"), SHAPES),
    **dict.fromkeys(("mask_ratio", "group_masks", "norm_pix_loss", "crop_scale_min", "rotations"), LOSS),
    **dict.fromkeys(("positives", "temperature", "colour_jitter", "contrast_weight"), LOSS),
    **dict.fromkeys(("init", "init_bands"), FIRST),
    "base_width": GROUPS,
}
OWN = ("run_dir", "branch")  # settings that no branch takes over


def inherited(given: dict[str, Any]) -> dict[str, Any]:
    """What the run that `given["branch"]` names was asked, to be overruled by what is given.

    Where that run is gone, what this branch itself was asked when it was started. Raises SettingsError.
    """
    text = str(given["branch"])
    folder = expanded(at_step(text)[0])
    asked = _asked(folder)
    if asked is None:
        found = list(_started(text, given))
        if len(found) != 1:
            more = f"; {len(found)} branches of it are here, say which one by run_dir" if found else ""
            raise SettingsError(f"branch: there is no run folder '{at_step(text)[0]}'{instead(text) or more}")
        asked = found[0]
    return {name: value for name, value in asked.items() if name not in OWN}


def refuse(settings: "PretrainSettings", there: dict[str, Any]) -> None:
    """Raise SettingsError, one sentence, for a setting that a branch may not change."""
    before, now = type(settings).model_construct(**there).results_only(), settings.results_only()
    for name, why in FIXED.items():
        if before[name] != now[name]:
            raise SettingsError(
                f"branch: {name} is {before[name]!r} in '{settings.branch}' and cannot become {now[name]!r}, since "
                f"{why}; leave it out, or start a new run from those weights by init"
            )


def ranges(value: object) -> list[range]:
    """The steps that a text such as `1201,1300-1305` names (or a number, or a list of both), in order.

    >>> ranges("1300-1301, 1201")
    [range(1201, 1202), range(1300, 1302)]
    """
    words = [str(each) for each in value] if isinstance(value, list | tuple | set) else str(value).split(",")
    found = []
    for word in filter(None, map(str.strip, words)):
        numbers = re.fullmatch(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", word)
        first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (0, 0)
        if not 1 <= first <= last:
            raise ValueError(f"'{word}' names no steps; they count from 1, such as 1201 or 1201-1205")
        found.append(range(first, last + 1))
    return sorted(found, key=lambda each: (each.start, each.stop))


def spelled(found: Iterable[range]) -> str:
    """The one text of these steps: neighbours joined, none twice."""
    joined: list[range] = []
    for each in found:
        if joined and each.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(each.stop, joined[-1].stop))
        else:
            joined.append(each)
    return ",".join(f"{r.start}-{r.stop - 1}" if len(r) > 1 else str(r.start) for r in joined)


def _asked(folder: Path) -> dict[str, Any] | None:
    """What a pretraining was asked, None where there is no run. Raises SettingsError for what is no pretraining."""
    try:
        stored = files.read_json(folder / SETTINGS)
        job, asked = stored["job"], dict(stored["asked"])
    except (FileNotFoundError, NotADirectoryError):
        if any((folder / name).is_file() for name in ("environment.json", "summary.json")):
            raise SettingsError(f"branch: {folder / SETTINGS} is missing; {way_out(folder)}") from None
        if folder.is_dir():
            raise SettingsError(f"branch: '{folder}' is no run folder, it has no settings.json") from None
        return None
    except files.Private as error:
        raise SettingsError(f"branch: {error}") from None
    except (files.Damaged, KeyError, TypeError, ValueError) as error:
        why = error if isinstance(error, files.Damaged) else f"{folder / SETTINGS} is no settings.json of a run"
        raise SettingsError(f"branch: {why}; {way_out(folder)}") from None
    if job != "pretrain":
        raise SettingsError(f"branch: '{folder}' is a {job} run, and only a pretraining (02) can be branched")
    return asked


def _started(text: str, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What was asked of each branch that was started with these settings, in its run_dir or else among the runs."""
    from geofm_lib.settings.pretrain import PretrainSettings

    run_dir, own = given.get("run_dir"), {name: value for name, value in given.items() if name != "branch"}
    for folder in [expanded(run_dir)] if run_dir else sorted(runs_root().glob("pretrain-*")):
        try:
            asked = _asked(folder)
            if asked and asked.get("branch") and one_spelling(asked["branch"]) == one_spelling(text):
                both = [PretrainSettings(**(asked | more | {"branch": ""})) for more in ({}, own)]
                if both[0].results_only() == both[1].results_only():
                    yield asked
        except SettingsError:
            continue
