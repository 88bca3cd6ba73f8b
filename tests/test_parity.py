"""The masked autoencoder beside transformers' ViTMAEForPreTraining: the same weights, images and masking noise."""

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from geofm_lib.model import mae
from geofm_lib.model.interop import export, folders, huggingface, load
from geofm_lib.model.vit import NORM_EPS
from tests.support import encoders

LOSS = 1e-5
# Of a tensor's gradient. A tensor whose gradient is nearly zero (a key's bias: softmax does not see it) is measured
# against the whole gradient instead.
GRADIENT, FLOOR = 1e-4, 1e-3


def stir(model):
    """Weights without a zero bias or a norm of one, so that no weight can be left out unseen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.empty_like(weight).normal_(std=0.02, generator=generator))
    return model


def gradients(model):
    """Zero for positions: they are fixed in both (from_pretrained forgets that, so theirs may have one)."""
    fixed = ("pos_embed", "position_embeddings")
    return {n: torch.zeros_like(p) if n.endswith(fixed) else p.grad for n, p in model.named_parameters()}


def assert_same_step(ours, theirs, config, batch):
    """One forward and backward pass of both: the loss, and the gradient of each of Hugging Face's tensors."""
    torch.manual_seed(0)
    patches = ours.decoder_pos_embed.shape[1] - 1
    images, noise = torch.randn(batch, config["channels"], *2 * [config["image_size"]]), torch.rand(batch, patches)
    loss, output = ours(images, noise), theirs(images, noise=noise)
    assert output.mask.sum(1).tolist() == batch * [patches - ours.visible]
    loss.backward()
    output.loss.backward()
    assert abs(loss.item() - output.loss.item()) <= LOSS

    mine = huggingface.to_theirs(folders.Saved(config, *folders.split(gradients(ours))), "vitmae")
    other = huggingface.to_theirs(huggingface.to_ours(gradients(theirs), config), "vitmae")
    assert mine.keys() == other.keys()
    assert len(other) == len(theirs.state_dict())
    whole = torch.stack([g.norm() for g in other.values()]).norm().item()
    away = {n: (mine[n] - g).norm().item() / max(g.norm().item(), FLOOR * whole) for n, g in other.items()}
    far = {name: value for name, value in away.items() if not value <= GRADIENT}
    assert not far, far


@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize("mask_ratio", [0.75, 0.9])  # of 16 patches, transformers alone would keep 1 at 0.9, we keep 2
def test_our_weights_in_their_model(tmp_path, norm_pix_loss, mask_ratio):
    """Through the exported folder, which transformers reads without a missing or an unknown weight."""
    decoder = {"decoder_width": 48, "decoder_depth": 2, "decoder_heads": 3}
    how = {"mask_ratio": mask_ratio, "norm_pix_loss": norm_pix_loss}
    ours = stir(mae.build("ViT-Atto", 32, channels=5, seed=0, **decoder, **how))
    config = {"model": "ViT-Atto", "family": "pretrain", "image_size": 32, "patch_size": 8, "channels": 5}
    config |= decoder | how
    encoders.write(tmp_path / "run" / "encoder", ours.state_dict(), config)
    export.convert(tmp_path / "run", tmp_path / "hf", "vitmae")
    theirs, found = ViTMAEForPreTraining.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(found.values()), found
    assert_same_step(ours, theirs, config, batch=3)


def test_their_weights_in_our_model_at_the_size_of_vit_base():
    """224 pixels, the decoder of the paper, their order of positions. In memory: the weights are 450 MB."""
    theirs = stir(ViTMAEForPreTraining(ViTMAEConfig(layer_norm_eps=NORM_EPS)))
    config = {"model": "ViT-Base", "image_size": 224, "patch_size": 16, "channels": 3, "decoder_depth": 8}
    weights = huggingface.to_ours(theirs.state_dict(), config)
    state = {f"encoder.{name}": value for name, value in weights.encoder.items()} | weights.decoder
    ours = load.fill(mae.build("ViT-Base", device="meta"), state, "ViTMAE")
    assert not ours.encoder.pos_embed.requires_grad
    assert not ours.decoder_pos_embed.requires_grad
    assert_same_step(ours, theirs, config, batch=1)
