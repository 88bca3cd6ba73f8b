"""Was an encoder pretrained on the images that it is probed with? By fingerprints, without opening an image."""

from pathlib import Path
from typing import Any

import numpy as np

from geofm_lib.data import overlap, places, trained_on
from geofm_lib.model.interop import folders, locate
from geofm_lib.settings import EncoderSettings

MOST = 0.5  # of the test images: where more were pretrained on, a probe says nothing
UNKNOWN, IN_PART = "not known", "known in part"  # the latter: its weights began from others of which it is not known


def compare(settings: EncoderSettings, config: folders.Config, labelled: bool = True) -> dict[str, Any]:
    """For the summary: pretrained_on (known, or how far not), and how many test images are among those.

    seen_exact have the same pixels, seen_near nearly the same look, also turned or mirrored; seen_place, where places
    are known, lie within places.REACH of ground that was pretrained on and are none of these. {} of random weights.
    labelled: are images without a label left out? ValueError, one sentence, where most of them are and `allow_seen` is
    not set.
    """
    if settings.encoder == "random":
        return {}
    known = _known(settings, config)
    tested = overlap.of_sides(Path(settings.data), ("test",), labelled=labelled)
    if not known or not tested:
        return {"pretrained_on": UNKNOWN}
    arrays, whole = known
    looks = overlap.among(tested, arrays)
    found = {kind: int(which.sum()) for kind, which in looks.items()}
    count, seen = len(tested["digest"]), sum(found.values())
    if seen > MOST * count and not settings.allow_seen:
        raise ValueError(
            f"encoder: it was pretrained on {seen} of the {count} test images of {settings.data}, so a probe would ask "
            "for what it has seen; give another encoder or other data, or set allow_seen to probe it nevertheless."
        )
    if len(arrays.get(trained_on.GROUND, ())):
        folder = Path(settings.data)
        lies = overlap.ground(folder, overlap.samples_of(folder, ("test",), labelled=labelled))
        near = places.beside(lies, arrays[trained_on.GROUND], places.REACH)
        found["place"] = int((near & ~looks["exact"] & ~looks["near"]).sum())
    how = "known" if whole else IN_PART
    return {"pretrained_on": how, **{f"seen_{kind}": number for kind, number in found.items()}}


def of_training(settings: EncoderSettings, config: folders.Config, labelled: bool = True) -> dict[str, int]:
    """For the summary: train_side, its images, and seen_train_images, those that the encoder was pretrained on.

    {} where that is not known. To have seen them, without their labels, is no fault.
    """
    images = overlap.of_sides(Path(settings.data), ("train",), labelled=labelled)
    seen = which(settings, config, images, None)
    if images is None or isinstance(seen, bool):
        return {}
    return {"train_side": len(seen), "seen_train_images": int(seen.sum())}


def which(
    settings: EncoderSettings, config: folders.Config, images: overlap.Arrays | None, ground: np.ndarray | None
) -> np.ndarray | bool:
    """Which of some images the encoder was pretrained on or beside, as far as is known: bool [n], or False for none."""
    known = None if images is None or settings.encoder == "random" else _known(settings, config)
    if images is None or not known:
        return False
    seen = np.logical_or(*overlap.among(images, known[0]).values())
    if ground is not None and trained_on.GROUND in known[0]:
        seen |= places.beside(ground, known[0][trained_on.GROUND], places.REACH)
    return seen


def _known(settings: EncoderSettings, config: folders.Config) -> tuple[overlap.Arrays, bool] | None:
    return trained_on.read(locate.find(settings.encoder).folder / locate.TRAINED_ON, config)
