"""An encoder's folder in another format: ours, timm's, a Hugging Face ViT or ViTMAE.

python -m geofm_lib.model.interop.export RUN_OR_ENCODER_FOLDER TARGET --format timm|vit|vitmae|geofm

The format of what is read is found from its config.json, so the same command brings a foreign encoder in
(``--format geofm``). Weights are only renamed and reordered: there and back again is bitwise.
"""

import argparse
import sys
from pathlib import Path

from geofm_lib.model import mae, vit
from geofm_lib.model.interop import folders, formats


def convert(source: str | Path, target: str | Path, kind: str) -> folders.Saved:
    """Writes the encoder in ``source`` to the new or empty folder ``target`` in the format ``kind``.

    Returns what was written, in our words. ValueError, one sentence, where the source is none or cannot become that;
    nothing is written then, and nothing is ever overwritten.
    """
    target = Path(target).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and holds something; give a new or an empty folder to write to.")
    folder = folders.find(source)
    saved = formats.read(folder)
    if saved.decoder:
        _autoencoder(folder, saved)
    else:
        vit.fill(vit.shell(saved.config), saved.encoder, _complaint(folder, saved))
    folders.write(target, formats.files(saved, kind))
    return saved


def save_autoencoder(folder: str | Path, state: folders.Weights, config: dict) -> Path:
    """Writes a MaskedAutoencoder's whole ``state`` as our folder: the encoder's files, and its decoder beside it.

    ``config`` is ``folders.Saved``'s, with the decoder's keys.
    """
    return folders.write(folder, formats.files(folders.Saved(config, *folders.split(state)), "geofm"))


def load_autoencoder(path: str | Path) -> tuple[mae.MaskedAutoencoder, dict]:
    """(autoencoder on the CPU, its config) from a run folder, or one of ours or of ViTMAE with a decoder."""
    folder = folders.find(path)
    saved = formats.read(folder)
    if not saved.decoder:
        raise ValueError(f"{folder} holds an encoder and no decoder; give a newer pretrain run, or a ViTMAE folder.")
    return _autoencoder(folder, saved), saved.config


def _autoencoder(folder: Path, saved: folders.Saved) -> mae.MaskedAutoencoder:
    config = saved.config
    model = mae.build(
        config["model"],
        folders.pair(config["image_size"]),
        config["channels"],
        "meta",
        config["patch_size"],
        **{key: config[key] for key in formats.NEEDED_BY_DECODER},
        norm_eps=config.get("norm_eps", folders.NORM_EPS),
    )
    state = {f"encoder.{name}": value for name, value in saved.encoder.items()} | saved.decoder
    return vit.fill(model, state, _complaint(folder, saved))


def _complaint(folder: Path, saved: folders.Saved) -> str:
    return f"{folder} does not fit {saved.config['model']}"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    usage = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m geofm_lib.model.interop.export", description=usage[0], epilog=usage[2]
    )
    parser.add_argument("source", metavar="RUN_OR_ENCODER_FOLDER", help="what to read, in any of the formats")
    parser.add_argument("target", metavar="TARGET", help="a new or empty folder")
    parser.add_argument("--format", required=True, choices=formats.FORMATS)
    options = parser.parse_args(argv)
    try:
        saved = convert(options.source, options.target, options.format)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{options.target} cannot be written: {error.strerror}; give another folder.", file=sys.stderr)
        return 1
    print(f"{options.target}: {_described(saved, options.format)}")
    return 0


def _described(saved: folders.Saved, kind: str) -> str:
    config, (height, width) = saved.config, folders.pair(saved.config["image_size"])
    parts = [f"{config['model']}, {height}x{width} pixels in patches of {config['patch_size']}"]
    parts += [f"{config['channels']} channels"]
    parts += ["with its decoder"] if saved.decoder and kind in ("geofm", "vitmae") else []
    parts += [] if "mean" in config else ["no mean and std known (a probe takes those of its images)"]
    parts += [f"left out {', '.join(saved.left_out)}"] if saved.left_out else []
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
