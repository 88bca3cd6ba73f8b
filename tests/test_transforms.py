"""Batches: crops, flips and masks depend on (seed, epoch, sample) and on nothing else."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from geofm_lib.data import decode, loader, transforms
from tests.support.pictures import encode, noise


class Stored:
    """A stand-in for Shards: pixels(i) of images in memory."""

    dates = 0

    def __init__(self, count=24, size=(40, 30)):
        self.data = [encode(noise(i, size), "JPEG") for i in range(count)]

    def pixels(self, i):
        return decode.decode(self.data[i]), None

    def keep(self):
        pass


def take(steps, **options):
    return list(loader.batches(Stored(), steps, image_size=16, **options))


@pytest.mark.parametrize("transform", list(transforms.TRANSFORMS))
def test_a_sample_looks_the_same_in_any_batch(transform):
    whole = take([np.arange(24)], transform=transform, seed=1, epoch=2)[0]
    parts = take([np.arange(24)[::-1][k : k + 5] for k in range(0, 24, 5)], transform=transform, seed=1, epoch=2)
    assert whole[0].shape == (24, 3, 16, 16)
    assert whole[0].dtype == torch.uint8
    for batch, indices in parts:
        assert torch.equal(batch, whole[0][indices])


def test_processes_change_nothing():
    steps = [np.arange(k, k + 4) for k in range(0, 24, 4)]
    for (a, i), (b, j) in zip(take(steps, seed=1), take(steps, seed=1, workers=2), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(i, j)


def test_crops_differ_by_epoch_and_seed_and_the_probe_has_its_own():
    first = take([np.arange(8)], seed=0, epoch=0)[0][0]
    others = [dict(epoch=1), dict(seed=1), dict(transform="probe_train")]
    assert all(not torch.equal(first, take([np.arange(8)], **other)[0][0]) for other in others)


def test_crop_boxes_lie_inside_and_keep_their_area():
    shares = []
    for i in range(400):
        top, left, h, w = transforms.crop_box(np.random.default_rng(i), 96, 64, (0.2, 1.0))
        assert 0 <= top <= 96 - h
        assert 0 <= left <= 64 - w
        assert 0.6 < w / h < 1.6
        shares.append(h * w / (96 * 64))
    assert 0.19 < min(shares) < 0.25
    assert max(shares) > 0.8
    assert transforms.crop_box(np.random.default_rng(0), 10, 1000, (0.9, 1.0))[2:] == (
        10,
        13,
    )  # nothing fits: the middle


def test_flips_happen_half_the_time():
    ramp = torch.arange(96, dtype=torch.uint8).expand(3, 96, 96)
    random = np.random.default_rng(0)
    views = [transforms.augment(ramp, 16, random, (0.2, 1.0)) for _ in range(200)]
    flipped = sum(int(view[0, 0, 0]) > int(view[0, 0, -1]) for view in views)
    assert 70 < flipped < 130


def test_decoders_agree_and_grey_becomes_colour():
    image = noise(3)
    exact = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for kind in ("PNG", "TIFF", "BMP"):
        assert torch.equal(decode.decode(encode(image, kind)), exact)
    jpeg = decode.decode(encode(image, "JPEG", quality=95)).float()
    assert (jpeg - exact).abs().mean() < 10
    assert decode.decode(encode(image.convert("L"), "JPEG")).shape == (3, 20, 24)


def test_normalise_and_mask_noise():
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    expected = (pixels.float() / 255 - 0.4) / 0.2
    assert torch.allclose(transforms.normalise(pixels, [0.4] * 3, [0.2] * 3), expected, atol=1e-5)
    assert transforms.normalise(pixels, [0.4] * 3, [0.2] * 3, torch.bfloat16).dtype == torch.bfloat16
    noise_BN = transforms.mask_noise(0, 3, [5, 9], 64)
    assert noise_BN.shape == (2, 64)
    assert noise_BN.dtype == torch.float32
    assert torch.equal(noise_BN[1], transforms.mask_noise(0, 3, torch.tensor([9]), 64)[0])
    assert not torch.equal(noise_BN, transforms.mask_noise(0, 4, [5, 9], 64))


def test_an_unknown_transform_is_named():
    with pytest.raises(ValueError, match="unknown transform 'train'"):
        take([np.arange(2)], transform="train")


def test_a_crop_is_torchvisions_and_so_is_its_distribution():
    """The same crop gives the same pixels; areas, aspects, flips, means and variances are those of v2's transforms."""
    pictures = [torch.from_numpy(np.array(noise(i, (64, 48)))).permute(2, 0, 1) for i in range(40)]
    bicubic = {"interpolation": v2.InterpolationMode.BICUBIC, "antialias": True}
    theirs = v2.Compose([v2.RandomResizedCrop(32, (0.2, 1.0), **bicubic), v2.RandomHorizontalFlip()])
    torch.manual_seed(0)
    boxes, views = {"ours": [], "v2": []}, {"ours": [], "v2": []}
    for i in range(1200):
        picture = pictures[i % 40]
        box = transforms.crop_box(np.random.default_rng(i), 48, 64, (0.2, 1.0))
        if i < 40:
            expected = v2.functional.resized_crop(picture, *box, [32, 32], **bicubic)
            top, left, height, width = box
            assert torch.equal(transforms.resize(picture[:, top : top + height, left : left + width], 32, 32), expected)
        boxes["ours"].append(box)
        drawn = theirs.transforms[0].make_params([picture])
        boxes["v2"].append([drawn[k] for k in ("top", "left", "height", "width")])
        views["ours"].append(transforms.augment(picture, 32, np.random.default_rng(i), (0.2, 1.0)))
        views["v2"].append(theirs(picture))
    found = {}
    for name in boxes:
        top, left, height, width = np.array(boxes[name], dtype=float).T
        shapes = {"area": height * width / 3072, "aspect": np.log(width / height), "top": top / 48, "left": left / 64}
        pixels = torch.stack(views[name]).float() / 255
        each = {n: np.quantile(values, np.linspace(0.05, 0.95, 19)) for n, values in shapes.items()}
        found[name] = each | {"mean": pixels.mean((0, 2, 3)).numpy(), "std": pixels.std((0, 2, 3)).numpy()}
    for what, allowed in {"area": 0.05, "aspect": 0.05, "top": 0.05, "left": 0.05, "mean": 0.01, "std": 0.01}.items():
        assert np.abs(found["ours"][what] - found["v2"][what]).max() < allowed, what


def test_sixteen_bits_stay_sixteen_bits():
    wide = torch.from_numpy(np.random.default_rng(0).integers(0, 65536, (5, 30, 40), dtype=np.uint16))
    small = transforms.resize(wide, 8, 12)
    exact = torch.nn.functional.interpolate(wide[None].double(), (8, 12), mode="bicubic", antialias=True)[0]
    assert small.dtype == torch.uint16
    assert (small.double() - exact.clamp(0, 65535)).abs().max() <= 1
    flat = transforms.resize(torch.full((2, 30, 30), 65535, dtype=torch.uint16), 64, 64)
    assert (flat.float() == 65535).all(), "what overshoots is cut off, never wrapped around"
    mean, std = [0.1, 0.2, 0.3, 0.4, 0.5], [0.01, 0.02, 0.03, 0.04, 0.05]
    expected = (wide.double() / 65535 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    assert torch.allclose(transforms.normalise(wide[None], mean, std)[0].double(), expected, rtol=1e-4, atol=1e-3)


def test_bands_are_shown_in_natural_colours():
    mean, std = np.linspace(0.01, 0.07, 13), np.full(13, 0.004)
    level = torch.tensor(mean * 65535).round().to(torch.uint16).view(1, 13, 1, 1).expand(2, 13, 4, 4)
    at_mean = transforms.to_rgb(level, mean, std)
    assert at_mean.shape == (2, 3, 4, 4)
    assert at_mean.dtype == torch.uint8
    assert ((at_mean.int() - 127).abs() <= 1).all()
    red = level.clone()
    red[:, 3] = 65535  # band B4
    assert (transforms.to_rgb(red, mean, std)[:, 0] == 255).all()
    assert torch.equal(transforms.to_rgb(red, mean, std)[:, 1:], at_mean[:, 1:])
    eight = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(transforms.to_rgb(eight, [0.5] * 3, [0.2] * 3), eight)
    assert torch.equal(transforms.to_rgb(eight[:, :1], [0.5], [0.2]), eight[:, :1].expand(-1, 3, -1, -1))


@pytest.mark.parametrize("kind", [torch.int16, torch.float32])
def test_signed_numbers_and_floats_keep_sign_and_range(kind):
    random = np.random.default_rng(0)
    values = torch.from_numpy(random.normal(-1000, 3000, (5, 30, 40))).to(kind)
    small = transforms.resize(values, 8, 12)
    exact = torch.nn.functional.interpolate(values[None].double(), (8, 12), mode="bicubic", antialias=True)[0]
    assert small.dtype == kind
    assert small.min() < 0
    assert (small.double() - exact).abs().max() <= (0.51 if kind == torch.int16 else 1e-2)
    full = decode.FULL[kind]
    mean, std = [-1000 / full] * 5, [3000 / full] * 5
    before = values.clone()
    found = transforms.normalise(values[None], mean, std)[0]
    assert torch.allclose(found.double(), (values.double() + 1000) / 3000, atol=1e-4)
    assert torch.equal(values, before), "floats are not changed in place"
    shown = transforms.to_rgb(values[None], mean, std)
    assert shown.dtype == torch.uint8
    assert 100 < shown.float().mean() < 155
    assert torch.equal(
        transforms.to_type(torch.tensor([-40000.0, 0.4, 40000.0]), torch.int16).int(), torch.tensor([-32768, 0, 32767])
    )


def test_turned_crops_are_the_same_crops_by_quarter_turns():
    """So `rotations` changes nothing else, and all four turns come."""
    steps = [np.arange(24)]
    (plain, _), (turned, _) = (take(steps, transform=name)[0] for name in ("pretrain", "pretrain_turned"))
    turns = [
        next(k for k in range(4) if torch.equal(a.rot90(k, (-2, -1)), b)) for a, b in zip(plain, turned, strict=True)
    ]
    assert set(turns) == {0, 1, 2, 3}
