"""08: arms and stages, the same numbers on any ranks and after a kill, intervals of seeds, and what is refused."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from geofm_lib import files
from geofm_lib.catalog import transfer as arms
from geofm_lib.catalog.readouts import ACCURACY, GAIN
from geofm_lib.data import trained_on
from geofm_lib.data.mixup import Mixed, Mixup
from geofm_lib.distributed import training
from geofm_lib.distributed.context import Context
from geofm_lib.figures import transfer as page
from geofm_lib.jobs import probe_judge, probe_metrics, probe_seen, transfer_arm, transfer_classify, transfer_judge
from geofm_lib.jobs import transfer as job
from geofm_lib.jobs.run_folder import Folder, Stopped, request
from geofm_lib.model import transfer, vit
from geofm_lib.model.interop import locate
from geofm_lib.runs import launch
from geofm_lib.runs.run import Run
from geofm_lib.settings import SettingsError, TransferSettings
from tests.support import encoders, objects, segments
from tests.support.preparations import prepared

CONFIG = {"model": "ViT-Atto", "family": "pretrain", "image_size": 16, "patch_size": 8, "channels": 3,
          "mean": [0.5] * 3, "std": [0.2] * 3, "mask_ratio": 0.75}  # fmt: skip
QUICK = {"image_size": 16, "train_images": 0, "test_images": 0, "epochs": 3, "frozen_share": 0.34, "seeds": 2,
         "global_batch": 4, "log_every": 1, "device": "cpu", "attention": "fused", "linear": "matmul",
         "checkpoint_every": 3}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared set of 3 classes of 8 images of 16 pixels, and an encoder."""
    root = tmp_path_factory.mktemp("transfer")
    for kind in range(3):
        (root / "files" / f"class {kind}").mkdir(parents=True)
        for number in range(8):
            small = np.random.default_rng([kind, number]).integers(0, 160, (4, 4, 3), dtype=np.uint8)
            small[..., kind] += 70
            picture = Image.fromarray(small).resize((16, 16), Image.Resampling.BICUBIC)
            picture.save(root / "files" / f"class {kind}" / f"{number}.png")
    files.write_json(root / "set" / "summary.json", prepared(root / "set", root / "files", workers=1)[0])
    segments.segmented(root / "segments")
    pixels = prepared(root / "pixels", root / "segments", labels="masks", pattern="images/{scene}_*.png", workers=1)[0]
    files.write_json(root / "pixels" / "summary.json", pixels)
    objects.detected(root / "objects", 12)
    boxes = prepared(root / "boxes", root / "objects", labels="boxes", workers=1)[0]
    files.write_json(root / "boxes" / "summary.json", boxes)
    state = vit.build("ViT-Atto", image_size=16, seed=7).state_dict()
    encoders.write(root / "run" / "encoder", state, CONFIG)
    return root


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One rank in this process."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("ranks") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield Context(0, 1, torch.device("cpu"), dist.HashStore())
    dist.destroy_process_group()


def asked(place, **more):
    data = {"segment": "pixels", "detect": "boxes"}.get(more.get("task"), "set")
    paths = {"data": str(place / data), "encoder": str(place / "run" / "encoder")}
    return TransferSettings(**QUICK | paths | more)


def ran(place, alone, folder, **more):
    folder.mkdir(exist_ok=True)
    settings = asked(place, **more)
    files.write_json(folder / "settings.json", {"job": "transfer", "asked": settings.asked(), "resolved": {}})
    found = job.run(settings, alone, Folder(folder))
    files.write_json(folder / "summary.json", {"status": "finished", **found})
    return found


@pytest.fixture(scope="module")
def finished(place, alone):
    return ran(place, alone, place / "whole"), place / "whole"


def rows(folder, name="accuracy.csv"):
    with open(folder / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def losses(folder):
    return [(row["step"], row["arm"], row["seed"], row["loss"]) for row in Folder(folder).metrics()]


def test_an_arm_is_a_row(finished):
    summary, folder = finished
    found = rows(folder)
    assert list(found[0]) == list(ACCURACY)
    whole = [row for row in found if row["interval_kind"]]
    assert len(whole) == 4 + 1 + 2, "four arms, the probe, and what pretraining adds to two of them"
    assert all(row["low"] <= row["value"] <= row["high"] or float(row["low"]) <= float(row["value"]) for row in whole)
    tuned, scratch = (summary[f"value_{name}"] for name in (arms.TUNED, arms.SCRATCH))
    gain = next(row for row in whole if row["metric"].endswith(GAIN))
    assert float(gain["value"]) == pytest.approx(tuned - scratch, abs=2e-3) == summary["gain"]
    assert float(whole[0]["difference_to_untrained"]) == pytest.approx(tuned - scratch, abs=2e-3)
    assert {row["interval_kind"] for row in whole if not row["protocol"].startswith("fast")} == {
        f"{kind}, of the mean of two seeds" for kind in (probe_judge.OF_IMAGES, transfer_judge.PAIRED)}  # fmt: skip
    assert "reaches" in summary["answer"]
    assert {row["class"] for row in rows(folder, "classes.csv")} == {"class 0", "class 1", "class 2"}
    run = Run(folder)
    assert [str(figure(run)) for figure in (page.verdict, page.differences, page.classes, page.controls)]
    assert "fine-tuned" in page.arms(run).alt and "fine-tuned" in page.curves(run).alt
    assert not (folder / "kept").exists()


def test_mixup_is_a_function_of_the_image_not_of_its_batch(place, alone, finished, tmp_path):
    """In micro-batches of one there is nobody to be mixed with but the one that is drawn."""
    found = []
    for parts in (0, 1):
        ran(place, alone, tmp_path / str(parts), mixup=0.8, arms="scratch", seeds=1, max_batch_per_rank=parts)
        found.append([row[-1] for row in losses(tmp_path / str(parts))])
    assert np.allclose(*found, atol=1e-5)
    plain = [row[-1] for row in losses(finished[1]) if row[1:3] == ("scratch", 0)]
    assert not np.allclose(found[0], plain)
    assert "mixup 0.8" in rows(tmp_path / "0")[0]["protocol"]


def test_mixed_labels_are_torchs_own_soft_ones():
    logits, share = torch.randn(5, 4), torch.rand(5)
    mixup = Mixup(0.4, 30, seed=3)
    assert {mixup.other(0, image) for image in range(200)} == set(range(30))
    each = (torch.tensor([0, 1, 2, 3, 1]), torch.tensor([3, 1, 0, 0, 2]))
    soft = torch.lerp(*(one_hot(labels, 4).float() for labels in reversed(each)), share[:, None])
    told = transfer_classify.loss(lambda pixels: logits, None, Mixed(*each, share))
    assert told == pytest.approx(float(cross_entropy(logits, soft)), abs=1e-6)
    several = [torch.randint(0, 2, (5, 4)).float() for _ in range(2)]
    soft = torch.lerp(several[1], several[0], share[:, None])
    told = transfer_classify.loss(lambda pixels: logits, None, Mixed(*several, share))
    assert told == pytest.approx(float(binary_cross_entropy_with_logits(logits, soft)), abs=1e-6)


def test_masks_and_boxes_are_not_mixed():
    with pytest.raises(SettingsError, match="mixup: the masks of segment cannot be mixed; set it to 0"):
        TransferSettings(task="segment", mixup=0.8)


def test_the_answer_says_which_arms_still_learn(finished):
    frame = pd.DataFrame({"arm": ["scratch"] * 10 + ["frozen"] * 10, "epoch": [*range(1, 11)] * 2})
    frame["loss"] = [2 - 0.1 * k for k in range(10)] + [2 - 0.1 * min(k, 3) for k in range(10)]
    assert page._still_falling(frame) == ["scratch"]
    run = Run(finished[1])
    assert ("Not trained to the end" in page.verdict(run).more) == bool(page._still_falling(run.metrics))


def test_the_answer_says_what_did_not_learn_and_what_is_never_found(finished, tmp_path):
    """An arm that trained the whole network to less than a head on random weights is no measure of pretraining."""
    files.write_json(tmp_path / "settings.json", files.read_json(finished[1] / "settings.json"))
    for scratch, told in ((10.0, True), (50.0, False)):
        files.write_json(tmp_path / "summary.json", finished[0] | {"value_scratch": scratch, "value_untrained": 40.0})
        assert ("steps are too few for it" in page.verdict(Run(tmp_path)).more) == told
    without = {name: value for name, value in finished[0].items() if name != "value_scratch"}
    files.write_json(tmp_path / "summary.json", without | {"value_untrained": 40.0})
    assert "steps are too few for it" not in page.verdict(Run(tmp_path)).more, "an arm that was not trained"
    found = pd.DataFrame({"class": ["a", "b", "c"], "test_images": 5, "fine-tuned": [0.0, 90.0, None], "scratch": 0.0})
    assert page._missed(found) == "Pretrained, fine-tuned finds nothing of 1 of 3 classes: a."
    assert page._missed(found.assign(**{"fine-tuned": 60.0})) == page._missed(pd.DataFrame()) == ""


def test_an_encoder_that_has_seen_the_train_side_is_told(place, finished, tmp_path):
    assert probe_seen.of_training(asked(place), CONFIG) == {}, "of these weights nothing is known"
    file = place / "run" / "encoder" / locate.TRAINED_ON
    trained_on.write(file, place / "set")
    try:
        found = probe_seen.of_training(asked(place), CONFIG)
    finally:
        file.unlink()
    assert found["seen_train_images"] == found["train_side"] > 0
    files.write_json(tmp_path / "summary.json", finished[0] | found)
    files.write_json(tmp_path / "settings.json", files.read_json(finished[1] / "settings.json"))
    assert f"was pretrained on {found['train_side']} of the" in page.verdict(Run(tmp_path)).more
    assert "was pretrained on" not in page.verdict(Run(finished[1])).more


def test_every_step_has_a_row_and_only_fine_tuning_is_eased(finished, place):
    summary, folder = finished
    found = losses(folder)
    assert [step for step, *_ in found] == list(range(1, 4 * 2 * summary["steps"] + 1))
    rates = {(row["arm"], row["seed"]): [] for row in Folder(folder).metrics()}
    for row in Folder(folder).metrics():
        rates[row["arm"], row["seed"]].append(row["learning_rate"])
    head, whole = (rate * 4 / 256 for rate in (asked(place).head_learning_rate, asked(place).base_learning_rate))
    assert max(rates["fine-tuned", 0][:3]) == head
    assert max(rates["fine-tuned", 0][3:]) == whole
    assert max(rates["scratch", 1]) == whole
    assert max(rates["frozen", 1]) == head


@pytest.mark.parametrize("head", [pytest.param("light", marks=pytest.mark.long), "pyramid"])
def test_pixels_get_their_classes(place, alone, head, tmp_path, monkeypatch):
    """Land is bright and water dark: fine-tuning learns it, and so do colours; the majority is half right."""
    how = {"head": head, "arms": "fine-tuned", "seeds": 1, "epochs": 8, "global_batch": 2, "rotations": False}
    summary = ran(place, alone, tmp_path / "run", task="segment", layer_decay=1.0, base_learning_rate=0.1, **how)
    values = {name: summary[f"value_{name}"] for name in (arms.TUNED, arms.MAJORITY, arms.COLOURS)}
    assert values[arms.COLOURS] > 90 and values[arms.MAJORITY] < 50
    assert values[arms.TUNED] > values[arms.MAJORITY] + 10
    found = rows(tmp_path / "run")
    assert {row["task"] for row in found} == {"segmentation"}
    assert found[0]["layer"] == ("last" if head == "light" else "blocks 1, 2, 3, 4")
    assert found[0]["interval_kind"] == "95 %, bootstrap over test images, within the places of this test side"
    classes = rows(tmp_path / "run", "classes.csv")
    mean = np.mean([float(row["fine-tuned"]) for row in classes])
    assert [row["class"] for row in classes] == ["water", "land"] and mean == pytest.approx(
        values[arms.TUNED], abs=0.01
    )
    run = Run(tmp_path / "run")
    assert "water blue, land orange" in page.pictures(run).alt
    monkeypatch.setenv("GEOFM_PICTURES", "builtin")
    assert "left out of this page on purpose" in str(page.pictures(run))
    assert "mean intersection over union" in page.arms(run).alt.lower()


@pytest.mark.parametrize("epochs, least", [(2, 0), pytest.param(60, 30, marks=pytest.mark.long)])
def test_objects_are_found(place, alone, tmp_path, monkeypatch, epochs, least):
    """Bright and dark rectangles: sixty steps on six images find some of those on others, and the page shows them."""
    how = {"arms": "fine-tuned,scratch", "seeds": 1, "epochs": epochs, "layer_decay": 1.0, "crop_scale_min": 0.9}
    summary = ran(place, alone, tmp_path / "run", task="detect", base_learning_rate=0.2, image_size=32, **how)
    assert (
        summary["value_fine-tuned"] >= least
        and 0 <= summary["map_0.5_to_0.95_fine-tuned"] <= summary["value_fine-tuned"]
    )
    found = rows(tmp_path / "run")
    assert {row["task"] for row in found} == {"detection"} and {row["metric"] for row in found} == {
        "map50",
        "map50" + GAIN,
    }
    classes = rows(tmp_path / "run", "classes.csv")
    assert [row["class"] for row in classes] == ["bright", "dark"]
    mean = np.mean([float(row["fine-tuned"]) for row in classes])
    assert mean == pytest.approx(summary["value_fine-tuned"], abs=0.01)
    assert sum(int(row["test boxes"]) for row in classes) == summary["test_boxes"]
    run = Run(tmp_path / "run")
    with np.load(tmp_path / "run" / "detections.npz") as saved:  # one test image has no object
        assert len(saved["image"]) == summary["test_images"] - 1 and (saved["truth"][:, 0, 4] >= 0).all()
    assert "true boxes" in page.pictures(run).alt and "bright blue, dark orange" in page.pictures(run).alt
    assert "at an IoU of 0.5" in page.arms(run).alt
    monkeypatch.setenv("GEOFM_PICTURES", "builtin")
    assert "left out of this page on purpose" in str(page.pictures(run))


@pytest.fixture(scope="module")
def tuned(place, alone):
    """Of a run of one arm that nothing has disturbed: its answer, rows and losses."""
    folder = place / "tuned"
    return ran(place, alone, folder, arms="fine-tuned")["answer"], rows(folder), losses(folder)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", [2, 13])
def test_a_killed_run_goes_on_with_the_same_bits(place, alone, tuned, tmp_path, monkeypatch, step):
    """In the head's stage, and in the second stage of the second seed; steps since a checkpoint are done again."""
    some = {"arms": "fine-tuned"}
    usual, count = training.step, 0

    def step_or_die(*arguments, **how):
        nonlocal count
        count += 1
        if count == step:
            raise Killed
        return usual(*arguments, **how)

    monkeypatch.setattr(training, "step", step_or_die)
    with pytest.raises(Killed):
        ran(place, alone, tmp_path / "killed", **some)
    monkeypatch.setattr(training, "step", usual)
    again = ran(place, alone, tmp_path / "killed", **some)
    assert (again["answer"], rows(tmp_path / "killed"), losses(tmp_path / "killed")) == tuned


def test_a_stop_is_followed_and_made_up_for(place, alone, tuned, tmp_path):
    some = {"arms": "fine-tuned", "seeds": 1}
    (tmp_path / "run").mkdir()
    request(tmp_path / "run", "requests/stop")
    with pytest.raises(Stopped, match="fine-tuned, seed 0, is saved at step 1"):
        ran(place, alone, tmp_path / "run", **some)
    (tmp_path / "run" / "requests" / "stop").unlink()
    ran(place, alone, tmp_path / "run", **some)
    assert losses(tmp_path / "run") == [row for row in tuned[2] if row[2] == 0]


def test_the_first_stage_leaves_the_encoder_alone(place, alone):
    """Its weights are the pretrained ones, bit for bit, and the head's have moved."""
    settings = asked(place, arms="frozen", seeds=1, epochs=1)
    data = job.TASKS["classify"].read(settings)
    encoder, config = transfer_arm.load.load_encoder(settings.encoder, 16)
    weights = {f"encoder.{n}": v for n, v in encoder.state_dict().items()}
    network = transfer.Network(encoder, job.TASKS["classify"].heads["linear"](encoder, data), whole=False)
    assert [n for n, p in network.named_parameters() if p.requires_grad] == ["head.linear.weight", "head.linear.bias"]
    network = transfer.Network(encoder, network.head, whole=True)
    fixed = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert fixed == ["encoder.pos_embed"]
    assert weights["encoder.cls_token"].shape == (1, 1, 64)


def test_rates_fall_from_block_to_block():
    """As timm's own layer-wise decay has it."""
    from timm.optim import param_groups_layer_decay

    model = vit.build("ViT-Atto", image_size=16, seed=0, num_classes=3)
    ours = transfer.share_of_rate(4, 0.75)
    theirs = {id(p): g["lr_scale"] for g in param_groups_layer_decay(model, layer_decay=0.75) for p in g["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            whole = name if name.startswith("head.") else f"encoder.{name}"
            assert ours(whole) == pytest.approx(theirs[id(parameter)]), name
    optimiser = training.layered(model, 0.05, lambda name: ours(name if "head." in name else f"encoder.{name}"))
    assert sum(len(g["params"]) for g in optimiser.param_groups) == len(theirs)
    assert {round(g["share_of_rate"], 9) for g in optimiser.param_groups} == {round(v, 9) for v in theirs.values()}


def test_an_interval_over_seeds_is_wider_than_of_one():
    """Seeds that differ by 20 points cannot be told to a point, however many images there are; two have no interval."""
    truth = np.zeros(1000, np.int64)
    scores = [
        np.stack([np.arange(1000) < count, np.arange(1000) >= count], 1).astype(float) for count in (900, 800, 700)
    ]
    judge = transfer_judge.Judge.__new__(transfer_judge.Judge)
    judge.truth, judge.within, judge.sizes = truth, "", (10, 1000)
    judge.metric = probe_metrics.TOP
    judge.weights = probe_judge.drawn(np.arange(1000), np.arange(1000), 500)
    one, two, three = (judge.draws(scores[:count], 2) for count in (1, 2, 3))
    assert np.ptp(np.percentile(one, (2.5, 97.5))) == pytest.approx(2 * 1.96 * 100 * (0.9 * 0.1 / 1000) ** 0.5, rel=0.2)
    assert np.ptp(np.percentile(two, (2.5, 97.5))) < 5 and two.mean() == pytest.approx(85, abs=1)
    assert np.ptp(np.percentile(three, (2.5, 97.5))) == pytest.approx(2 * 4.303 * 10 / 3**0.5, rel=0.15)
    assert [judge.kind("95 %", seeds) for seeds in (1, 2, 3)] == [
        "95 %", "95 %, of the mean of two seeds", "95 %, Student's t over training seeds"]  # fmt: skip


REFUSED = {
    "an arm": ({"arms": "frozen,tuned"}, "arms: .* there is no arm 'tuned'; use some of fine-tuned, frozen"),
    "a head": ({"head": "fpn"}, "head: there is no 'fpn' for classify; use linear"),
    "no boxes yet": (
        {"task": "detect", "dataset": "x"},
        "data: images with boxes are prepared first .*-p labels boxes",
    ),
    "no masks yet": (
        {"task": "segment", "dataset": "x"},
        "data: images with masks are prepared first",
    ),
    "a task": ({"task": "fly"}, "task: 'fly' cannot be used: must be one of classify, segment, detect"),
    "ranks": ({"ranks": 3}, "global_batch: 4 images cannot be shared by 3 ranks; use 3 or 6"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_at_once(case):
    more, words = REFUSED[case]
    with pytest.raises(SettingsError, match=words):
        TransferSettings(**QUICK | more)


def test_what_does_not_fit_is_refused_by_the_job(place, alone, tmp_path):
    with pytest.raises(SettingsError, match="encoder: random weights are the arms scratch and untrained"):
        launch._resolved(asked(place, encoder="random"), 1)
    with pytest.raises(ValueError, match="train_images: 99 are more than the 12 of the train side"):
        ran(place, alone, tmp_path / "a", train_images=99)
    with pytest.raises(ValueError, match="has no masks, so nothing can be segmented; prepare it with labels=masks"):
        job.TASKS["segment"].read(asked(place))
    with pytest.raises(ValueError, match="global_batch=40 is more than the 12 training images"):
        ran(place, alone, tmp_path / "b", global_batch=40)
    with pytest.raises(ValueError, match="frozen, seed 0, diverged in step .*; set base_learning_rate and head_"):
        ran(place, alone, tmp_path / "c", arms="frozen", head_learning_rate=1e38, clip_grad_norm=0)
