"""Settings that series of values over dates need, since a series is an image one pixel high: one date is a patch."""

from typing import Any

from geofm_lib.settings.base import Settings

# What a model of series has, beside image_size. A date of one band has no spread of its own to be normalised by, two
# views of a series do not differ, time has one direction, and histograms are of pictures.
NEEDED: dict[str, Any] = {
    "patch_size": 1, "norm_pix_loss": False, "objective": "mae", "band_groups": "", "orientations": 1,
    "compare_histograms": False,
}  # fmt: skip


def refuse(settings: Settings, dates: int) -> None:
    """Raise ValueError, one sentence, for settings that do not fit series of so many dates; 0: of images, all do."""
    if not dates:
        return
    task = {"task": ("series", "classify")} if hasattr(settings, "task") else {}
    wanted = {name: (value,) for name, value in ({"image_size": dates} | NEEDED).items()} | task
    wrong = {name: good[0] for name, good in wanted.items() if getattr(settings, name, good[0]) not in good}
    if wrong:
        first, ways = next(iter(wrong)), " ".join(f"{name}={value}" for name, value in wrong.items())
        raise ValueError(f"{first}: the data are series of {dates} dates, each of which is a patch; set {ways}")
