"""An encoder's folder in another format: ours, timm's, a Hugging Face ViT or ViTMAE.

The command is `geofm export`, which runs `distributed/snapshot` in a process of its own: torch stays out of the
command's. The format of what is read is found from its config.json, so the same command brings a foreign encoder in
(format geofm). Weights are only renamed and reordered: there and back again is bitwise.
"""

from pathlib import Path

from geofm_lib import files
from geofm_lib.model.interop import folders, formats, load, locate


def export(source: str | Path, target: str | Path, format: str, saved: folders.Saved | None = None) -> str:
    """``convert``, and one line about what was written; ValueError, one sentence, also where nothing can be written."""
    try:
        saved = convert(source, target, format, saved)
    except OSError as error:
        raise ValueError(f"{target} cannot be written: {error.strerror}; give another folder.") from None
    config, (height, width) = saved.config, folders.pair(saved.config["image_size"])
    parts = [f"{config['model']}, {height}x{width} pixels in patches of {config['patch_size']}"]
    parts += [f"{config['channels']} channels"]
    parts += ["with its decoder"] if saved.decoder and format in ("geofm", "vitmae") else []
    parts += [] if "mean" in config else ["no mean and std known (a probe takes those of its images)"]
    parts += ["of groups of bands, which neither timm nor transformers can load"] * bool(config.get("band_groups"))
    parts += [f"left out {', '.join(saved.left_out)}"] if saved.left_out else []
    parts += [folders.origin(config)] if "checkpoint" in config else []
    return f"{target}: {', '.join(parts)}"


def convert(source: str | Path, target: str | Path, format: str, saved: folders.Saved | None = None) -> folders.Saved:
    """Writes the encoder in ``source`` to the new or empty folder ``target``; ``format`` is one of ``formats.FORMATS``.

    ``saved``: what is in ``source``, where it was read by other means. Returns what was written, in our words.
    ValueError, one sentence, where the source is none or cannot become that; nothing is written then, and nothing is
    ever overwritten.
    """
    target, where = Path(target).expanduser(), Path(source)
    refuse_full(target)
    if saved is None:
        place = locate.find(source)
        saved, where = formats.read(place), place.folder
        if place.config is None:  # its decoder's heads and target are not known
            saved = saved._replace(decoder={}, left_out=(*saved.left_out, *saved.decoder))
    if saved.foreign:
        raise ValueError(saved.foreign)
    if saved.decoder:
        load.autoencoder(where, saved)
    else:
        load.fill(load.shell(saved.config), saved.encoder, f"{where} does not fit {saved.config['model']}")
    if where.is_dir():  # before anything is written: what is carried, or made anew
        files.prove(where, {locate.CARD, locate.TRAINED_ON} & files.sums(where).keys())
    folders.write(target, formats.files(saved, format))
    files.seal(target, {*files.sums(target), *folders.carry(where, target, locate.TRAINED_ON)})
    return saved


def refuse_full(target: Path) -> None:
    """ValueError, one sentence, for a folder that holds something."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and holds something; give a new or an empty folder to write to.")
