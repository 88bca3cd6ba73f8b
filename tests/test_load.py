"""model/interop/load.py: encoders from their two files, and what is said of a folder that is none."""

import json

import pytest
import torch

from geofm_lib.model import vit
from geofm_lib.model.interop import load
from tests.support import encoders

CONFIG = {"model": "ViT-Atto", "family": "pretrain", "image_size": 32, "patch_size": 8, "channels": 3}


def test_an_encoder_travels_through_its_two_files(tmp_path):
    encoder, images = vit.build("ViT-Atto", image_size=32, seed=0).eval(), torch.randn(2, 3, 32, 32)
    encoders.write(tmp_path / "run" / "encoder", encoder.state_dict(), CONFIG)
    loaded, config = load.load_encoder(tmp_path / "run")
    assert config == CONFIG
    torch.testing.assert_close(loaded(images), encoder(images))
    larger, _ = load.load_encoder(tmp_path / "run" / "encoder", image_size=64)
    assert larger.pos_embed.shape == (1, 65, 64)
    assert larger(torch.randn(1, 3, 64, 64)).shape == (1, 64)
    with pytest.raises(ValueError, match="patch size 8"):
        load.load_encoder(tmp_path / "run", image_size=36)


def test_a_wrong_encoder_folder_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load.load_encoder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no model.safetensors with config.json"):
        load.load_encoder(tmp_path)
    encoders.write(tmp_path, vit.build("ViT-Atto", image_size=32).state_dict(), CONFIG | {"model": "ViT-Femto"})
    with pytest.raises(ValueError, match="does not fit ViT-Femto"):
        load.load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model": "ViT-Atto"}))
    (tmp_path / "SHA256SUMS").unlink()  # else it says that the file was changed
    with pytest.raises(ValueError, match="lacks image_size"):
        load.load_encoder(tmp_path)
