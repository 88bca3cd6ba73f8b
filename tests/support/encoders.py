"""Encoder folders of ours with weights that a test has made."""

from geofm_lib.model.interop import folders, formats


def write(folder, state, config):
    """Our folder of an encoder, or of an autoencoder's whole state, by the way that the export takes."""
    return folders.write(folder, formats.files(folders.Saved(config, *folders.split(state)), "geofm"))
