"""The real stream, with real processes: one global order whatever the ranks and workers, and nothing twice."""

import numpy as np
import pytest
import torch

from geofm_lib import files
from geofm_lib.data import loader, sampler, shards
from geofm_lib.data.sample import Sample
from tests.benchmarks import loader as loader_benchmark
from tests.support import packed as prepared
from tests.support.pictures import as_archive, class_folders, encode, noise

IMAGES, BATCH, EPOCHS = 48, 8, 3
STEPS = IMAGES // BATCH


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """48 small JPEGs in three data shards."""
    samples = [
        Sample(f"{i}.jpg", width=24, height=20, channels=3, data=encode(noise(i), "JPEG")) for i in range(IMAGES)
    ]
    return prepared.write(tmp_path_factory.mktemp("packed"), samples, shard_bytes=20_000)


def stream(packed, **options):
    usual = {"seed": 5, "global_batch": BATCH, "epochs": EPOCHS, "image_size": 16}
    return loader.stream(shards.Shards(packed, keep_bytes=0), **(usual | options))


def read(packed, world, workers, parts=1, **options):
    """Every step's images and indices, the ranks' parts put together as a global batch: {step: (pixels, indices)}."""
    steps = {}
    for rank in range(world):
        for step, epoch, found in stream(packed, rank=rank, world=world, parts=parts, workers=workers, **options):
            assert epoch == step * options.get("global_batch", BATCH) // IMAGES
            assert len(found) == parts
            for part, (pixels, indices) in enumerate(found):
                steps.setdefault(step, {})[part, rank] = pixels, indices
    return {
        step: tuple(torch.cat([found[key][n] for key in sorted(found)]) for n in (0, 1))
        for step, found in sorted(steps.items())
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(a, b) for step in one for a, b in zip(one[step], other[step], strict=True)
    )


@pytest.fixture(scope="module")
def whole(packed):
    """All steps of three epochs on one rank without workers."""
    return read(packed, 1, 0)


def test_the_order_is_the_sampler_s(whole):
    assert list(whole) == list(range(EPOCHS * STEPS))
    for epoch in range(EPOCHS):
        indices = torch.cat([whole[step][1] for step in range(epoch * STEPS, (epoch + 1) * STEPS)])
        assert indices.tolist() == sampler.order(5, epoch, IMAGES).tolist()
    assert not torch.equal(whole[0][0], whole[STEPS][0])


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("world", [1, 2, 8])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_ranks_and_workers_read_one_sequence(packed, whole, world, workers):
    assert same(read(packed, world, workers), whole)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("before, after", [((1, 3), (2, 0)), ((2, 1), (8, 0)), ((8, 0), (1, 1))])
def test_stopped_anywhere_and_resumed_on_other_ranks(packed, whole, before, after):
    """Read to a random step, stop in the middle with batches prepared ahead, and go on: each image once an epoch."""
    stop = int(np.random.default_rng(before[0]).integers(1, EPOCHS * STEPS - 1))
    world, workers = before
    first = {}
    for rank in range(world):
        part = stream(packed, rank=rank, world=world, workers=workers)
        for _ in range(stop):
            step, _, [(pixels, indices)] = next(part)
            first.setdefault(step, []).append((pixels, indices))
        part.close()
    joined = {step: tuple(torch.cat(both) for both in zip(*found, strict=True)) for step, found in first.items()}
    rest = read(packed, *after, done=stop)
    assert min(rest) == stop == max(joined) + 1
    assert same(joined | rest, whole)
    for epoch in range(EPOCHS):
        seen = torch.cat([(joined | rest)[s][1] for s in range(epoch * STEPS, (epoch + 1) * STEPS)])
        assert sorted(seen.tolist()) == list(range(IMAGES))


def test_stopped_at_any_sample(packed):
    """With batches of one image a step is a sample."""
    whole = read(packed, 1, 0, global_batch=1)
    stop = int(np.random.default_rng(3).integers(IMAGES, 2 * IMAGES))
    rest = read(packed, 1, 2, global_batch=1, done=stop)
    assert same({step: whole[step] for step in range(stop, EPOCHS * IMAGES)}, rest)


def test_micro_batches_are_the_same_images(packed, whole):
    assert same(read(packed, 2, 0, parts=2), whole)


def test_the_runs_own_random_numbers_are_left_alone(packed):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(stream(packed, workers=1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_in_one_sentence(packed, tmp_path, workers):
    broken = tmp_path / "broken"
    (broken / "shards").mkdir(parents=True)
    for file in packed.rglob("*.*"):
        (broken / file.relative_to(packed)).write_bytes(file.read_bytes())
    row = files.read_csv(broken / "index.csv")[7]
    path = broken / "shards" / row["shard"]
    content = bytearray(path.read_bytes())
    content[int(row["offset"]) : int(row["offset"]) + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^7\.jpg in .* is damaged .* prepare the images again$"):
        list(stream(broken, workers=workers))


def test_a_batch_that_cannot_be_shared_says_so(packed):
    with pytest.raises(ValueError, match="not divisible by 3 ranks"):
        list(stream(packed, world=3))
    with pytest.raises(ValueError, match="use at most 48"):
        list(stream(packed, global_batch=49))


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_the_measured_pipelines_give_the_same_batches_in_distribution(tmp_path):
    """What `make loader` times: 32 images each through ours, ImageFolder's and webdataset's transforms."""
    tree = class_folders(tmp_path / "set", each=40)
    (tree / "crop land" / "._hidden.jpg").unlink()  # ImageFolder would take it for an image
    made = loader_benchmark.pipelines(
        *loader_benchmark.write_sets(as_archive(tree, tmp_path / "set.tar"), tmp_path / "out")
    )
    found = {}
    for name, start in made.items():
        torch.manual_seed(0)
        batch = next(start(0))
        assert batch.shape == (32, 3, 224, 224)
        assert batch.dtype == torch.float32
        assert batch.is_contiguous()
        found[name] = torch.stack([batch.mean((0, 2, 3)), batch.std((0, 2, 3))])
    for name, each in found.items():
        assert (each - found["imagefolder"]).abs().max() < 0.15, name


@pytest.mark.timeout(20)
def test_images_without_end_are_not_listed_first(packed):
    assert next(iter(stream(packed, epochs=10**9)))[0] == 0
