"""An encoder is asked for features of images that have the bands it knows, in their order."""

from typing import Any

from geofm_lib.data.shards import Shards


def refuse_other(config: dict[str, Any], images: Shards, encoder: str, fix: str) -> None:
    """ValueError, one sentence that ends in `fix`, where the images of a set are of other bands than an encoder's."""
    if config["channels"] != images.channels:
        raise ValueError(
            f"The encoder in {encoder} takes {config['channels']} channels, the images in {images.folder} have "
            f"{images.channels}; {fix}."
        )
    known = config.get("bands", [])
    if known and images.bands and known != images.bands:
        raise ValueError(
            f"The encoder in {encoder} takes the bands {', '.join(known)}, the images in {images.folder} have "
            f"{', '.join(images.bands)}; prepare them with bands={','.join(known)}, or give an encoder of these."
        )
