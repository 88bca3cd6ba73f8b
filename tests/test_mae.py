"""model/mae.py: what is masked, what the loss sees, sizes, precision, weights on a sharded model."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from geofm_lib.model import mae, targets, vit
from geofm_lib.model.init import initialise
from geofm_lib.model.patches import patchify, unpatchify

# Table of the plain encoder with the 512 x 8 decoder, in millions (positions counted).
WITH_DECODER = {
    "ViT-Base": 111.91,
    "ViT-Huge": 657.08,
    "ViT-1B": 934.35,
    "ViT-3B": 3075.72,
    "ViT-5B": 3831.99,
    "ViT-15B": 14666.98,
}


@pytest.mark.parametrize("name", WITH_DECODER)
def test_parameter_counts(name):
    model = mae.build(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(WITH_DECODER[name], abs=0.006)


@pytest.fixture
def case():
    """(model, images, noise): 5 channels, 32 x 64 pixels, 4 x 8 patches of which 8 stay visible."""
    torch.manual_seed(0)
    model = mae.build("ViT-Atto", (32, 64), channels=5, seed=0)
    return model, torch.randn(3, 5, 32, 64), torch.rand(3, 32)


def masked_pixels(model, noise):
    """1 where a pixel is in a masked patch, [B, 1, H, W]."""
    _, masked = mae.random_masking(noise, model.visible)
    mask = torch.zeros_like(noise).scatter(1, masked, 1.0)
    return unpatchify(mask[:, :, None].expand(-1, -1, 64), 8, 4, 8)


def test_mask_counts(case):
    model, images, noise = case
    picture, mask = model.reconstruct(images, noise)
    assert picture.shape == images.shape
    assert picture.dtype == torch.float32
    assert mask.sum(1).tolist() == [24, 24, 24]
    assert set(mask.unique().tolist()) == {0, 1}
    visible, masked = mae.random_masking(noise, model.visible)
    assert torch.equal(torch.cat([visible, masked], 1).sort(1).values, torch.arange(32).expand(3, -1))
    assert (noise.gather(1, visible).amax(1) <= noise.gather(1, masked).amin(1)).all()


def test_what_is_masked_does_not_reach_the_prediction(case):
    model, images, noise = case
    changed = images + 5 * torch.randn_like(images) * masked_pixels(model, noise)
    torch.testing.assert_close(model.reconstruct(changed, noise)[0], model.reconstruct(images, noise)[0])
    visible_too = images + 5 * torch.randn_like(images) * (1 - masked_pixels(model, noise))
    assert not torch.allclose(model.reconstruct(visible_too, noise)[0], model.reconstruct(images, noise)[0])


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_loss_is_the_error_on_masked_patches_only(case, norm_pix_loss):
    model, images, noise = case
    model.norm_pix_loss = norm_pix_loss
    visible, masked = mae.random_masking(noise, model.visible)
    patches = patchify(images, 8)
    with torch.no_grad():
        predicted = model.decoder_pred(model.decode(model.encode(patches, visible), visible))
    target = patches
    if norm_pix_loss:
        target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    mask = torch.zeros_like(noise).scatter(1, masked, 1.0)
    per_image = (((predicted - target) ** 2).mean(-1) * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(model(images, noise), per_image.mean())


def test_choosing_patches_before_projecting_them_changes_nothing(case):
    model, images, noise = case
    visible, _ = mae.random_masking(noise, model.visible)
    encoder = model.encoder
    tokens = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]  # timm's way: all patches
    first = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(3, -1, -1)
    tokens = encoder.norm(encoder.blocks(torch.cat([first, mae.take(tokens, visible)], 1)))
    torch.testing.assert_close(model.encode(patchify(images, 8), visible), tokens)


def test_every_trained_weight_gets_a_gradient_and_positions_none(case):
    model, images, noise = case
    model(images, noise).backward()
    assert {n for n, p in model.named_parameters() if p.grad is None} == {"encoder.pos_embed", "decoder_pos_embed"}


def test_it_learns_one_batch(case):
    model, images, noise = case
    images = images.mean((2, 3), keepdim=True).mul(20).expand(-1, -1, 32, 64)  # each image one colour
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = model(images, noise).item()
    for _ in range(40):
        optimiser.zero_grad()
        loss = model(images, noise)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5 * before


def test_bf16_weights_take_fp32_images_and_give_an_fp32_loss(case):
    model, images, noise = case
    expected = model(images, noise)
    loss = model.bfloat16()(images, noise)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.03, atol=0.03)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.float()(images, noise)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.03, atol=0.03)


def test_reconstruct_puts_brightness_back(case):
    model, images, noise = case
    model.norm_pix_loss = True
    with torch.no_grad():
        model.decoder_pred.weight.zero_()
        model.decoder_pred.bias.zero_()
    flat = patchify(images, 8).mean(-1, keepdim=True).expand(-1, -1, 5 * 64)
    torch.testing.assert_close(model.reconstruct(images, noise)[0], unpatchify(flat, 8, 4, 8))
    torch.testing.assert_close(targets.patch_means(images, 8), unpatchify(flat, 8, 4, 8))


def test_wrong_parts_are_refused():
    with pytest.raises(ValueError, match="family 'pretrain'"):
        mae.MaskedAutoencoder(vit.build("ViT-Atto", "benchmark", 32))
    with pytest.raises(ValueError, match="choose a divisor"):
        mae.build("ViT-Atto", 32, decoder_width=60, decoder_heads=7)
    with pytest.raises(ValueError, match="mask ratio of 1.5"):
        mae.build("ViT-Atto", 32, mask_ratio=1.5)


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_weights_of_a_sharded_model_are_those_of_a_whole_one(case, one_rank):
    """meta -> fully_shard -> to_empty -> initialise: parameters are DTensors by then (many ranks: test_many_ranks)."""
    whole, images, noise = case
    model = mae.build("ViT-Atto", (32, 64), channels=5, device="meta")
    for block in [*model.encoder.blocks, *model.decoder_blocks]:
        fully_shard(block, mesh=one_rank)
    fully_shard(model, mesh=one_rank, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    model.to_empty(device="cpu")
    initialise(model, seed=0)
    for (name, ours), expected in zip(model.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours.full_tensor(), expected), name
    torch.testing.assert_close(model(images, noise), whole(images, noise))
    torch.testing.assert_close(model.reconstruct(images, noise)[0], whole.reconstruct(images, noise)[0])
