"""Where an image was not measured: kept through crops, never a target, the same loss however a batch is divided."""

import functools
import itertools
import json

import numpy as np
import pytest
import tifffile
import torch
from torch.nn import functional as F

from geofm_lib.data import loader, sampler, transforms
from geofm_lib.data.shards import Shards
from geofm_lib.distributed import context
from geofm_lib.figures import pretrain as figures
from geofm_lib.jobs import pretrain, probe, throughput
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import mae, targets
from geofm_lib.model.patches import patchify
from geofm_lib.runs.run import Run
from geofm_lib.settings import PretrainSettings, ProbeSettings, Resolved, ThroughputSettings
from tests.support import filled
from tests.support.preparations import apart, prepared
from tests.support.timing import scaled


@pytest.mark.parametrize("size, wanted", [(40, 24), (40, 40), (40, 57), (31, 16), (9, 64), (64, 8), (13, 12)])
def test_a_resized_pixel_is_measured_where_all_it_is_made_of_is(size, wanted):
    """Each hole in turn is given another value: only pixels that are not measured may change, and mostly all do."""
    changed, lost = 0, 0
    plain = torch.full((1, size, 12), 100.0)
    before = transforms.resize(plain, wanted, 9)
    for hole in range(size):
        image, valid = plain.clone(), torch.ones(1, size, 12, dtype=torch.bool)
        image[0, hole, 5], valid[0, hole, 5] = 1e4, False
        seen = transforms.resize(valid, wanted, 9)
        moved = (transforms.resize(image, wanted, 9) - before).abs() > 0.1  # a weight of 1e-5
        assert seen.dtype == torch.bool
        assert not (moved & seen).any()
        changed, lost = changed + int(moved.sum()), lost + int((~seen).sum())
    assert lost <= 1.8 * changed


@pytest.mark.parametrize("name", ["pretrain", "probe_train", "probe_test", "none"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.int16, torch.float32])
def test_crop_flip_and_resize_take_pixels_and_validity_the_same_way(name, kind):
    """What was measured is 100 everywhere: so is every pixel that still counts as measured."""
    change = transforms.TRANSFORMS[name]
    kept = []
    for i in range(12):
        valid = torch.from_numpy(np.random.default_rng(i).random((1, 5, 4)) < 0.7)
        valid = valid.repeat_interleave(12, 1).repeat_interleave(9, 2)
        image = torch.where(valid, 100, 255).expand(2, -1, -1).to(kind)
        random = functools.partial(sampler.generator, 0, 0, i)
        view, seen = (change(each, 24, random, (0.2, 1.0)) for each in (image, valid))
        whole = transforms.together(view, seen)[None]
        assert whole.dtype == kind
        pixels, found = transforms.apart(whole, masked=True)
        assert pixels.shape == (1, 2, 24, 24)
        assert torch.equal(found[0], seen)
        assert (pixels.float()[found.expand(-1, 2, -1, -1)] - 100).abs().max() < 1e-3
        kept.append(seen.float().mean().item())
    assert 0.2 < np.mean(kept) < 0.7
    assert transforms.together(view, None)[-1:].bool().all()


CHIPS, SIDE, BANDS = 24, 32, 3


def write_chips(folder, holes=True, kind=np.uint16):
    """Two classes of chips; every third has a stripe of a value that GDAL_NODATA names, the first one for its half."""
    fill = 65535 if kind == np.uint16 else -9999
    for i in range(CHIPS):
        random = np.random.default_rng(i)
        soft = np.kron(random.normal(1, 0.2, (8, 8, BANDS)), np.ones((4, 4, 1)))
        pixels = (soft * (1000 if i % 2 else 3000)).astype(kind)
        if holes and i % 3 == 0:
            pixels[: 16 if i == 0 else 10] = fill
        path = folder / "ab"[i % 2] / f"{i:02d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tags = [(42113, "s", 0, str(fill), True)]
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", extratags=tags, metadata=None)
    return folder


@pytest.fixture(scope="module")
def chips(tmp_path_factory):
    """(folder of a preparation with holes, of the same chips without any)"""
    root = tmp_path_factory.mktemp("chips")
    found = []
    for name, holes in (("holes", True), ("whole", False)):
        prepared(root / name, write_chips(root / f"{name} files", holes), workers=1)
        found.append(root / name)
    return found


def test_the_preparation_knows_what_was_not_measured(chips, tmp_path):
    with_holes, whole = (Shards(folder) for folder in chips)
    assert (with_holes.masked, whole.masked) == (True, False)
    statistics = json.loads((chips[0] / "statistics.json").read_text())
    assert statistics["masked_images"] == 8
    train = Shards(chips[0], "train")
    measured = []
    for i in range(len(train)):
        pixels, valid = train.pixels(i)
        exact, _ = whole.pixels(whole.names.index(train.names[i]))
        where = torch.ones(1, SIDE, SIDE, dtype=torch.bool) if valid is None else valid
        assert torch.equal(pixels[:, where[0]], exact[:, where[0]])
        measured.append(exact[:, where[0]].double())
        if valid is not None:
            fill = pixels[:, ~where[0]].double()
            assert (fill - measured[-1].mean(1, keepdim=True)).abs().max() <= 0.5
    everything = torch.cat(measured, 1)
    np.testing.assert_allclose(statistics["mean_stored"], everything.mean(1), rtol=1e-6)
    np.testing.assert_allclose(statistics["std_stored"], everything.std(1, correction=0), rtol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_carry_validity_only_where_something_is_masked(chips, workers):
    with_holes, whole = (Shards(folder, "train") for folder in chips)
    how = {"seed": 0, "global_batch": 6, "epochs": 1, "image_size": 16, "workers": workers}
    for (_, _, [(masked, first)]), (_, _, [(plain, second)]) in zip(
        loader.stream(with_holes, **how), loader.stream(whole, **how), strict=True
    ):
        assert torch.equal(first, second)
        assert (masked.shape[1], plain.shape[1]) == (BANDS + 1, BANDS)
        pixels, valid = transforms.apart(masked, with_holes.masked)
        assert transforms.apart(plain, whole.masked) == (plain, None)
        there = valid.expand_as(pixels)
        assert (pixels.float()[there] - plain.float()[there]).abs().max() <= 1
        assert 0 < (~valid).float().mean() < 0.5
    probed, _ = next(loader.batches(with_holes, [[0, 1]], image_size=16, transform="probe_test"))
    assert probed.shape[1] == BANDS


@pytest.fixture(params=list(itertools.product([False, True], [torch.float32, torch.bfloat16])))
def case(request):
    """(model, images, noise): 4 x 4 patches of 8 x 8 pixels, of which 4 stay visible."""
    norm_pix_loss, precision = request.param
    torch.manual_seed(0)
    model = mae.build("ViT-Atto", 32, channels=BANDS, seed=0, norm_pix_loss=norm_pix_loss).to(precision)
    return model, torch.randn(4, BANDS, 32, 32), torch.rand(4, 16)


def loss_and_gradients(model, *inputs):
    model.zero_grad()
    loss = model(*inputs)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def holes(images=4):
    """A whole image, one with whole and partial holes, one with a pixel alone, and one that was not measured at all."""
    valid = torch.ones(images, 1, 32, 32, dtype=torch.bool)
    valid[1, :, :20] = False
    valid[1, :, 20:24, :3] = False
    valid[2] = False
    valid[2, :, 5, 6] = True
    valid[3] = False
    return valid


def test_where_all_is_measured_loss_and_gradients_are_the_same_bits(case):
    everywhere = torch.ones(4, 1, 32, 32, dtype=torch.bool)
    model, images, noise = case
    for one, other in zip(
        loss_and_gradients(model, images, noise), loss_and_gradients(model, images, noise, everywhere), strict=True
    ):
        assert torch.equal(one, other)
    assert model.not_measured == 0


def test_the_loss_is_the_mean_over_images_of_the_error_of_measured_targets(case):
    model, images, noise = case
    valid = holes()
    with torch.no_grad():
        found = model(images, noise, valid)
        patches, seen = patchify(images, 8), patchify(valid.expand_as(images), 8)
        expected, counted, hidden = [], 0, 0
        for b in range(4):
            raised = noise[b] + (~seen[b].any(1)).float()
            visible, masked = (part[None] for part in raised.argsort().split([4, 12]))
            predicted = model.decoder_pred(model.decode(model.encode(patches[b : b + 1], visible), visible)).float()
            errors = []
            for n in masked[0].tolist():
                there = seen[b, n]
                target = patches[b, n, there]
                if model.norm_pix_loss and len(target):
                    target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
                errors.append((predicted[0, n, there] - target) ** 2)
                counted, hidden = counted + int(there.sum()), hidden + len(there)
            errors = torch.cat(errors)
            expected.append(errors.mean() if len(errors) else torch.zeros(()))
    rtol = 1e-5 if next(model.parameters()).dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=rtol, atol=1e-6)
    assert expected[3] == 0
    assert model.not_measured.item() == pytest.approx(1 - counted / hidden)


def test_what_was_not_measured_is_no_target(case):
    """Its numbers may change where patches are masked, and no gradient is worse for an image without any number."""
    model, images, noise = case
    valid = holes()
    spoilt = torch.where(valid, images, 1e4 * torch.randn_like(images))
    seen = patchify(valid, 8).any(2)
    visible, masked = mae.random_masking(noise + (~seen).float(), model.visible)
    for b in (1, 2):
        none_left = int((~seen[b]).sum()) <= len(masked[b])
        assert set(np.flatnonzero(~seen[b])) <= set(masked[b].tolist()) or not none_left
    images[3] = spoilt[3] = 0  # of which all is masked or visible though nothing was measured
    kept = mae.take(patchify(images, 8), visible)
    hidden = patchify(spoilt, 8).scatter(1, visible[:, :, None].expand(-1, -1, kept.shape[2]), kept)
    picture = F.fold(hidden.transpose(1, 2), 32, 8, stride=8)
    one, other = (loss_and_gradients(model, each, noise, valid) for each in (images, picture))
    assert all(torch.isfinite(each).all() for each in one)
    if not model.norm_pix_loss:
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


def test_any_micro_batches_give_the_same_loss_and_gradients(case):
    model, images, noise = case
    valid = holes()
    whole = loss_and_gradients(model, images, noise, valid)
    exact = next(model.parameters()).dtype == torch.float32
    for size in (1, 2):
        parts = [
            loss_and_gradients(model, images[b : b + size], noise[b : b + size], valid[b : b + size])
            for b in range(0, 4, size)
        ]
        for expected, *each in zip(whole, *parts, strict=True):
            mean = torch.stack([part.float() for part in each]).mean(0)
            torch.testing.assert_close(
                mean, expected.float(), rtol=1e-4 if exact else 0.1, atol=1e-6 if exact else 0.05
            )


def test_reconstructions_put_back_what_measured_pixels_have():
    model = mae.build("ViT-Atto", 32, channels=BANDS, seed=0, norm_pix_loss=True)
    valid = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    valid[..., :4] = False
    images = torch.where(valid, 2.0, -50.0).expand(-1, BANDS, -1, -1).contiguous()
    with torch.no_grad():
        model.decoder_pred.weight.zero_()
        model.decoder_pred.bias.zero_()
    rebuilt, _ = model.reconstruct(images, torch.rand(1, 16), valid)
    torch.testing.assert_close(rebuilt, torch.full_like(rebuilt, 2.0))
    torch.testing.assert_close(targets.patch_means(images, 8, valid), torch.full_like(rebuilt, 2.0))


def _jobs(folder, data, pretraining, probing, workloads):
    """Pretraining, probe and throughput on prepared images: one rank in a process of its own."""
    torch.set_num_threads(1)
    usual = {"model": "ViT-Atto", "data": str(data), "device": "cpu", "ranks": 1}
    for name in ("run", "probe", "throughput"):
        (folder / name).mkdir(parents=True)
    alone = context.join(folder / "run", "cpu")
    try:
        asked = PretrainSettings(**usual | {"patch_size": 8, "workers": 1} | pretraining)
        found = {"trained": pretrain.run(asked, alone, Folder(folder / "run", resolved=Resolved(data_fingerprint="x")))}
        if probing:
            how = {
                "image_size": asked.image_size,
                "encoder": str(folder / "run"),
                "compare_histograms": False,
                "details": False,
            }
            found["probed"] = probe.run(ProbeSettings(**usual | how | probing), alone, Folder(folder / "probe"))
        few = {"warmup_steps": 1, "steps": 2, "profile_steps": 1, "image_size": 32, "batch_per_gpu": 4}
        for workload in workloads:
            asked = ThroughputSettings(**usual | few, workload=workload, input="real", compare=True)
            found[workload] = throughput.run(asked, alone, Folder(folder / "throughput"))["images_per_s"]
    finally:
        context.leave(alone)
    (folder / "found.json").write_text(json.dumps(found))


def jobs(folder, data, pretraining, probing=None, workloads=(), seconds=120):
    process = apart(_jobs, folder, data, pretraining, probing, workloads)
    process.join(scaled(seconds))
    assert process.exitcode == 0
    return json.loads((folder / "found.json").read_text())


def check_pretraining(folder, data, found):
    """Shares are told, the loss is that of measured pixels, and the rest is black in the reconstructions."""
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == found["trained"]["steps"]
    shares = [row["not_measured"] for row in rows]
    assert all(0 < share < 0.5 for share in shares)
    assert found["trained"]["not_measured"] == pytest.approx(np.mean(shares))
    assert all(row["loss"] < 10 for row in rows)
    drawn = figures.loss(Run(folder / "run"))
    assert f"{100 * np.mean(shares):.1f} % of the masked pixels were not measured" in drawn.alt
    with np.load(folder / "run" / "reconstruction.npz") as saved:
        test = Shards(data, "test")
        dark = [(saved[name] == 0).all(3).mean(axis=(1, 2)) > 0.05 for name in ("original", "rebuilt", "means")]
        masked = [test.pixels(i)[1] is not None for i in np.linspace(0, len(test) - 1, 8).astype(int)]
        assert dark[0].tolist() == dark[1].tolist() == dark[2].tolist() == masked
        assert not (saved["hidden"] & (saved["original"] == 0).all(3)).any(), "what was not measured is no error"


TRAINED = {"image_size": 32, "epochs": 2, "global_batch": 6, "log_every": 1}


def test_every_job_takes_a_set_with_holes(chips, tmp_path):
    few = {"epochs": 2, "views": 1, "probe_seeds": 1, "compare_random": False}
    found = jobs(tmp_path / "jobs", chips[0], TRAINED, few, ("mae", "classify"))
    check_pretraining(tmp_path / "jobs", chips[0], found)
    assert 0 <= found["probed"]["top1_pretrained_mean"] <= 100
    assert min(found["mae"], found["classify"]) > 0


def test_floats_with_holes_are_pretrained_on(tmp_path):
    prepared(tmp_path / "data", write_chips(tmp_path / "files", kind=np.float32), workers=1)
    found = jobs(tmp_path / "jobs", tmp_path / "data", TRAINED | {"norm_pix_loss": True})
    check_pretraining(tmp_path / "jobs", tmp_path / "data", found)


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory):
    """form -> (folder, summary) of EuroSAT's chips, of which every tenth has 20 rows of 65535."""
    root, found = tmp_path_factory.mktemp("eurosat"), {}
    for form in ("clean", "declared", "undeclared"):
        summary, _, _ = prepared(root / form, filled.make(root / f"{form} files", form), workers=1)
        found[form] = root / form, summary
    return found


@filled.needed
def test_fill_leaves_the_spread_of_eurosat_alone(eurosat):
    clean, summary = eurosat["clean"]
    assert (summary["masked_images"], summary["left_out_of_statistics"], summary["refused"]) == (0, 0, 0)
    std = {form: json.loads((folder / "statistics.json").read_text())["std"] for form, (folder, _) in eurosat.items()}
    exact = Shards(clean)
    for form in ("declared", "undeclared"):
        folder, summary = eurosat[form]
        assert (summary["masked_images"], summary["images"]) == (10, 100)
        assert summary["masked_share"] == pytest.approx(0.1 * filled.ROWS / 64)
        assert std[form] == pytest.approx(std["clean"], rel=0.02)
        train = Shards(folder, "train")
        measured = []
        for i, name in enumerate(train.names):
            pixels, valid = exact.decode(exact.names.index(name)), train.pixels(i)[1]
            measured.append(pixels.flatten(1) if valid is None else pixels[:, valid[0]])
        expected = torch.cat([each.double() for each in measured], 1).std(1, correction=0) / 65535
        assert std[form] == pytest.approx(expected.tolist(), abs=1e-9)
    assert std["declared"] == std["undeclared"]


@filled.needed
def test_where_fill_counts_mean_and_spread_leave_those_images_out(eurosat, tmp_path):
    summary, _, _ = prepared(
        tmp_path / "run", eurosat["clean"][0].parent / "undeclared files", workers=1, nodata="none"
    )
    assert summary["masked_images"] == 0
    assert summary["left_out_of_statistics"] == 6, "those of the train side"
    assert any("mean and spread leave out 6 images" in words for words in summary["warnings"])
    std = [json.loads((run / "statistics.json").read_text())["std"] for run in (tmp_path / "run", eurosat["clean"][0])]
    assert std[0] == pytest.approx(std[1], rel=0.1)


@pytest.mark.long
@pytest.mark.timeout(1800)
@filled.needed
def test_fill_leaves_the_probe_of_eurosat_alone(eurosat, tmp_path):
    """Three pretrainings of a small model on each form; their probes must lie within each other's interval."""
    recipe = {"image_size": 64, "epochs": 40, "global_batch": 10, "warmup_epochs": 4, "base_learning_rate": 0.012}
    asked = {"epochs": 60, "views": 2, "probe_seeds": 3, "base_learning_rate": 30}
    top1 = {}
    for form, (data, _) in eurosat.items():
        runs = [jobs(tmp_path / f"{form} {k}", data, recipe | {"seed": k}, asked, seconds=600) for k in range(3)]
        top1[form] = np.array([run["probed"]["top1_pretrained_mean"] for run in runs])
    interval = 4.303 * top1["clean"].std(ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    binomial = 100 * 1.96 * np.sqrt(0.5 * 0.5 / 50) / np.sqrt(3)
    for form in ("declared", "undeclared"):
        assert abs(top1[form].mean() - top1["clean"].mean()) <= max(interval, binomial), top1
