"""An encoder's folder in another format: ours, timm's, a Hugging Face ViT or ViTMAE.

The command is `geofm export`, which runs this file in a process of its own: torch stays out of the command's. The
format of what is read is found from its config.json, so the same command brings a foreign encoder in (format geofm).
Weights are only renamed and reordered: there and back again is bitwise.
"""

import sys
from pathlib import Path

from geofm_lib import streams
from geofm_lib.model.interop import folders, formats, load, locate


def export(source: str | Path, target: str | Path, format: str) -> str:
    """``convert``, and one line about what was written; ValueError, one sentence, also where nothing can be written."""
    try:
        saved = convert(source, target, format)
    except OSError as error:
        raise ValueError(f"{target} cannot be written: {error.strerror}; give another folder.") from None
    config, (height, width) = saved.config, folders.pair(saved.config["image_size"])
    parts = [f"{config['model']}, {height}x{width} pixels in patches of {config['patch_size']}"]
    parts += [f"{config['channels']} channels"]
    parts += ["with its decoder"] if saved.decoder and format in ("geofm", "vitmae") else []
    parts += [] if "mean" in config else ["no mean and std known (a probe takes those of its images)"]
    parts += [f"left out {', '.join(saved.left_out)}"] if saved.left_out else []
    return f"{target}: {', '.join(parts)}"


def convert(source: str | Path, target: str | Path, format: str) -> folders.Saved:
    """Writes the encoder in ``source`` to the new or empty folder ``target``; ``format`` is one of ``formats.FORMATS``.

    Returns what was written, in our words. ValueError, one sentence, where the source is none or cannot become that;
    nothing is written then, and nothing is ever overwritten.
    """
    target = Path(target).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and holds something; give a new or an empty folder to write to.")
    place = locate.find(source)
    saved = formats.read(place)
    if saved.foreign:
        raise ValueError(saved.foreign)
    if place.config is None:  # its decoder's heads and target are not known
        saved = saved._replace(decoder={}, left_out=(*saved.left_out, *saved.decoder))
    if saved.decoder:
        load.autoencoder(place.folder, saved)
    else:
        load.fill(load.shell(saved.config), saved.encoder, f"{place.folder} does not fit {saved.config['model']}")
    folders.write(target, formats.files(saved, format))
    return saved


if __name__ == "__main__":
    streams.secure()
    try:
        print(export(*sys.argv[1:]))
    except ValueError as error:
        sys.exit(str(error))
