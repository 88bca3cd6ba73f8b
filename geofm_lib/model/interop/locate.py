"""Where an encoder's weights are: files of a run, a folder, or one file. No torch: the launcher asks here too."""

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from geofm_lib import rights

WEIGHTS, SETTINGS = "model.safetensors", "config.json"
DECODER, CARD, TRAINED_ON = "decoder.safetensors", "README.md", "trained_on.npz"  # the last: see data/trained_on
PICKLE = "pytorch_model.bin"
INDEX = ".index.json"  # added to either name when the weights are cut into several files
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
HUB_ID = re.compile(r"(?:hf[-_]hub:)?([A-Za-z0-9][\w.-]*/[\w.-]+)")
TIMM_NAME = re.compile(r"(?:deit3?|eva\d*|beit\w*|vit)_\w+(?:\.\w+)?")


class Place(NamedTuple):
    """What was found: the folder that messages name, its config.json (None: there is none), the files of weights."""

    folder: Path
    config: Path | None
    weights: tuple[Path, ...]


def find(path: str | Path, typed: str = "") -> Place:
    """The encoder's files in ``path``: a folder, a run with a folder ``encoder``, or one file of weights.

    Safetensors come before pickles, and a whole file before one that is cut. ValueError, one sentence, where there is
    none; a name on the hub (as it was ``typed``) gets the command that downloads it, and nothing is downloaded here.
    """
    try:
        return _found(Path(path).expanduser(), typed or str(path))
    except PermissionError as error:
        raise ValueError(rights.told(error)) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); mend its rights, or give another one.") from None


def _found(path: Path, typed: str) -> Place:
    if path.is_file() and path.suffix in SUFFIXES:
        config = path.with_name(SETTINGS)
        whose = path.name in (WEIGHTS, PICKLE) and config.is_file()
        return Place(path.parent if whose else path, config if whose else None, (path,))
    for folder in (path, path / "encoder"):
        weights = _weights(folder)
        if weights and (folder / SETTINGS).is_file():
            return Place(folder, folder / SETTINGS, weights)
    if not path.is_dir():
        raise ValueError(_absent(typed, path))
    alone = [each for each in sorted(path.iterdir()) if each.suffix in SUFFIXES and each.is_file()]
    if len(alone) == 1 and not (path / SETTINGS).is_file():
        return Place(alone[0], None, (alone[0],))
    if not alone and steps(path):
        raise ValueError(
            f"{path} is a run that has not ended, and a checkpoint cannot be taken here; first write its encoder "
            f"with 'geofm export {path} FOLDER --format geofm'."
        )
    if not alone and _job(path) == "pretrain":
        raise ValueError(f"{path} has not written a checkpoint yet; wait for its first one (checkpoint_every).")
    if len(alone) > 1:
        names = ", ".join(each.name for each in alone[:4]) + " ..." * (len(alone) > 4)
        raise ValueError(f"The encoder folder {path} holds {names} and no {SETTINGS}; give one of these files.")
    raise ValueError(
        f"The encoder folder {path} holds no {WEIGHTS} with {SETTINGS} (nor does its folder 'encoder'); give a "
        "finished pretrain run, an exported folder, or one of timm or Hugging Face."
    )


def checkpoint(run: Path, step: int) -> Path:
    """The folder of a run's checkpoint."""
    return run / "checkpoint" / f"step-{step:08d}"


def steps(run: Path) -> list[int]:
    """The steps of a run's whole checkpoints, the oldest first; [] where it has none."""
    try:
        found = [each.parent.name[5:] for each in (run / "checkpoint").glob("step-????????/manifest.json")]
    except OSError:
        return []
    return sorted(int(each) for each in found if each.isdigit())


def unfinished(run: Path) -> bool:
    """Is it a pretraining with checkpoints and without its encoder yet?"""
    return bool(steps(run)) and not any((folder / SETTINGS).is_file() for folder in (run, run / "encoder"))


def described(place: Place) -> Path:
    """The place's config.json; ValueError, one sentence, where there is none: features need what it says."""
    if place.config:
        return place.config
    raise ValueError(
        f"{place.folder} has no {SETTINGS} beside it, so its pooling, mean and std are not known; put that "
        "of its timm model there, or start 02 from it (init)."
    )


def digest(place: Place) -> str:
    """SHA-256 over those of all files of a place in their order: the config, the weights, a run's decoder."""
    found = [each for each in (place.config, *place.weights, place.folder / DECODER) if each and each.is_file()]
    whole = hashlib.sha256()
    for each in found:
        try:
            with open(each, "rb") as stream:
                whole.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise ValueError(f"{each} cannot be read ({error.strerror}); mend the disk or its rights.") from None
    return whole.hexdigest()


def _weights(folder: Path) -> tuple[Path, ...]:
    """The files of the folder's weights in one of the four forms; () when it has none of them."""
    for name in (WEIGHTS, WEIGHTS + INDEX, PICKLE, PICKLE + INDEX):
        if not (folder / name).is_file():
            continue
        if not name.endswith(INDEX):
            return (folder / name,)
        try:
            named = sorted({str(each) for each in json.loads((folder / name).read_text())["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            raise ValueError(f"{folder / name} has no table of files ('weight_map'); copy the folder again.") from None
        for each in named:
            if Path(each).name != each or not (folder / each).is_file():
                raise ValueError(f"{folder / name} names {each}, which is not in the folder; copy the folder again.")
        return tuple(folder / each for each in named)
    return ()


def _job(path: Path) -> str:
    try:
        return json.loads((path / "settings.json").read_text())["job"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _absent(given: str, path: Path) -> str:
    """The sentence for a path that does not exist."""
    if "://" in given:
        advice = "fetch it where there is a network, and give the file"
        return f"'{given}' is an address, and nothing is downloaded by itself; {advice}."
    hub = HUB_ID.fullmatch(given)
    name = hub[1] if hub else f"timm/{given}" if TIMM_NAME.fullmatch(given) else ""
    if name and ("/" not in given or not path.parent.is_dir()):
        return (
            f"'{given}' is no folder here but looks like a model of the Hugging Face hub, and nothing is downloaded by "
            f"itself; run 'hf download {name} --local-dir {name.split('/')[1]}' where there is a network, and give "
            "that folder."
        )
    return f"The encoder folder {path} does not exist; give a pretrain run folder, or an exported one."
