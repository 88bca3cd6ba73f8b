"""Encoder folders of ours with weights that a test has made."""

from geofm_lib.model import mae
from geofm_lib.model.interop import folders, formats


def write(folder, state, config):
    """Our folder of an encoder, or of an autoencoder's whole state, by the way that the export takes."""
    return folders.write(folder, formats.files(folders.Saved(config, *folders.split(state)), "geofm"))


def autoencoder(folder, seed=3):
    """The folder of a whole ViT-Atto for 3 bands of 32 pixels, with its decoder."""
    sizes = {"decoder_width": 64, "decoder_depth": 2, "decoder_heads": 2}
    config = {"model": "ViT-Atto", "family": "pretrain", "image_size": 32, "patch_size": 8, "channels": 3}
    state = mae.build("ViT-Atto", 32, seed=seed).state_dict()
    return write(folder, state, config | sizes | {"mask_ratio": 0.75, "norm_pix_loss": True})
