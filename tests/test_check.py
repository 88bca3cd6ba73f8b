"""What the file system must have for a run: refused in one sentence before anything is made."""

import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from geofm_lib.data.sources import early, prepared, tables
from geofm_lib.files import seal
from geofm_lib.runs import start
from geofm_lib.runs.check import check
from geofm_lib.settings import PrepareSettings, PretrainSettings, ProbeSettings, SettingsError
from tests.support import packed
from tests.support.pictures import as_archive, class_folders


def refusal(settings):
    with pytest.raises(SettingsError) as caught:
        check(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_data_that_cannot_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no image")
    for name, fact in (("empty", "is empty"), ("text", "holds no images"), ("none", "there is no folder or file")):
        assert fact in refusal(PretrainSettings(dataset=str(tmp_path / name)))
    assert "not a run folder of 01_data" in refusal(PretrainSettings(data=str(tmp_path / "empty")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "text"]


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file; choose another folder" in refusal(PretrainSettings(run_dir=str(tmp_path / "file" / "below")))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

    fact = "cannot be made because nothing can be made in '/proc' (No such file or directory); choose another folder"
    assert refusal(PretrainSettings(run_dir="/proc/x")) == f"run_dir: '/proc/x' {fact}"


def test_steps_that_the_images_do_not_give_are_refused_at_launch(tmp_path):
    (tmp_path / "images").mkdir()
    packed.textures(tmp_path / "images")
    train = prepared.train_images(tmp_path / "images")
    usual = {"data": str(tmp_path / "images"), "model": "ViT-Atto", "global_batch": 8, "epochs": 2}
    last = 2 * (train // 8)
    for wrong, told in (
        ({"global_batch": 500}, f"global_batch: 500 images are more than the {train} of the train side; use fewer"),
        ({"skip_steps": f"{last + 1}"}, f"skip_steps: step {last + 1} is beyond the last one, {last}; name others"),
        ({"skip_steps": f"1-{last}"}, "skip_steps: no step is left; name fewer"),
    ):
        assert refusal(PretrainSettings(**(usual | wrong))) == told
    told = f"global_batch: 100 images are more than the {train} of the train side; use fewer"
    assert refusal(ProbeSettings(data=usual["data"])) == told, "of the pretraining that it starts first"
    check(PretrainSettings(**usual, skip_steps=f"1-{last - 1}", run_dir=str(tmp_path / "run")))
    assert [each.name for each in tmp_path.iterdir()] == ["images"]


def test_an_encoder_that_cannot_be_used_is_refused_at_launch(tmp_path):
    """By its header alone: `tests/test_init.py` holds the same sentences against weights that are read."""
    shapes = {"patch_embed.proj.weight": (64, 3, 16, 16)}
    shapes |= {f"blocks.{k}.norm1.weight": (64,) for k in range(4)}
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    usual = {"init": str(tmp_path), "run_dir": str(tmp_path / "run")}
    other = f"init: {tmp_path} has patches of 16 pixels and this model of 8; set patch_size=16."
    assert refusal(PretrainSettings(**usual, model="ViT-Atto", patch_size=8)) == other
    check(PretrainSettings(**usual, model="ViT-Atto", patch_size=16))
    assert "set model=ViT-Atto." in refusal(PretrainSettings(**usual, model="ViT-Tiny"))
    seal(tmp_path, ["model.safetensors", "config.json"])
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-1] + b"x")
    for settings in (PretrainSettings(**usual), ProbeSettings(encoder=str(tmp_path))):
        assert "model.safetensors is not what was written" in refusal(settings)
    (tmp_path / "SHA256SUMS").unlink()
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    assert "is no whole safetensors file" in refusal(ProbeSettings(encoder=str(tmp_path)))


def test_runs_and_steps_that_are_not_there_are_named_with_what_was_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path))
    (tmp_path / "a").mkdir()
    step = f"; '@xyz' is no step: a checkpoint is named by its number, such as {tmp_path}/a@1200"
    assert refusal(ProbeSettings(encoder="a@830")) == f"encoder: there is no run 'a'; did you mean '{tmp_path}/a@830'?"
    assert refusal(ProbeSettings(encoder=f"{tmp_path}/a@xyz")).endswith(step)
    with pytest.raises(SettingsError, match="did you mean"):
        PretrainSettings(branch="a@830")
    with pytest.raises(SettingsError, match="'@xyz' is no step"):
        PretrainSettings(branch=f"{tmp_path}/a@xyz")
    told = "init: 'https://u:***@h/x.pth' is an address, and nothing is downloaded by itself; fetch it"
    assert refusal(PretrainSettings(init="https://u:pw@h/x.pth")).startswith(told)


def test_an_encoder_that_is_none(tmp_path):
    assert "holds no model.safetensors" in refusal(ProbeSettings(encoder=str(tmp_path)))


def test_ranks_that_do_not_fit(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(SettingsError, match="3 divides") as caught:
        start.count_ranks(PretrainSettings(strategy="HYBRID_3GPUs"))
    assert "\n" not in str(caught.value)


def test_constructors_look_at_no_file(tmp_path):
    PretrainSettings(dataset=str(tmp_path / "none"), data=str(tmp_path / "none"), run_dir="/proc/none")


def test_what_can_run_is_not_refused(tmp_path):
    asked = PretrainSettings(run_dir=str(tmp_path / "run"))
    check(asked)
    asked.check_ranks(2)
    assert not list(tmp_path.iterdir())


def test_labels_that_cannot_be_had_are_refused_at_launch(tmp_path):
    source = class_folders(tmp_path / "set")
    for labels, fact in (
        ("nothing.csv", "labels: 'nothing.csv' is neither here nor in"),
        ("table.csv:kind=x", "labels: 'kind' of 'kind=x' is none of path, label, side, group"),
        (",", "labels: ',' names no file"),
    ):
        assert fact in refusal(PrepareSettings(dataset=str(source), labels=labels))
    (source / "labels.csv").write_text("image,label\ncrop land 0.jpg,x\nrío 0.jpg,y\n")
    check(PrepareSettings(dataset=str(source), labels="labels.csv", run_dir=str(tmp_path / "run")))
    check(PrepareSettings(dataset=str(source), labels="folders", run_dir=str(tmp_path / "run")))


COCO = '{"info": {}, "images": [{"id": 1, "file_name": "0.jpg"}], "annotations": []}'
WRONG = {  # table, its text, what stands behind its name in the setting -> what is told at launch
    "column": ("t.csv", "file,class\n0.jpg,x\n", ":label=klass", "no column 'klass' for label; did you mean 'class'"),
    "no row": (
        "t.csv",
        "image,label\nz/9.jpg,x\n",
        "",
        "none of the 1 rows of 't.csv' names an image: they say 'z/9.jpg'",
    ),
    "side": ("t.csv", "image,split\n0.jpg,oops\n", "", "line 2 of 't.csv' has the side 'oops'"),
    "COCO": ("t.json", COCO, "", "'t.json' holds boxes of objects (COCO), not a label for each image; write them as"),
    "map": ("t.json", '{"type": "FeatureCollection", "features": []}', "", "holds shapes on a map (GeoJSON)"),
    "Excel": ("t.csv", "PK\3\4xx", "", "an Excel workbook or a zip; save it as CSV"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("pattern", ["", "*.jpg", "{n}_{band}.jpg"])
def test_tables_that_cannot_be_meant_are_refused_at_launch(tmp_path, case, pattern):
    name, text, columns, fact = WRONG[case]
    stacked = "band" in pattern
    for n in range(3):
        for band in ("_B02", "_B03") if stacked else ("",):
            tmp_path.joinpath(f"{n}{band}.jpg").touch()
    (tmp_path / name).write_text(text)
    if stacked and case in ("no row", "side"):  # known when bands are put together
        check(PrepareSettings(dataset=str(tmp_path), labels=name + columns, pattern=pattern))
    else:
        assert fact in refusal(PrepareSettings(dataset=str(tmp_path), labels=name + columns, pattern=pattern))


def test_a_table_beside_a_tar_is_looked_at(tmp_path):
    source = as_archive(class_folders(tmp_path / "set"), tmp_path / "set.tar.gz")
    (tmp_path / "coco.json").write_text(COCO)
    for labels, fact in (
        (f"{tmp_path}/coco.json", "boxes of objects (COCO)"),
        ("table.csv:kind=x", "'kind' of 'kind=x' is none of path"),
    ):
        assert fact in refusal(PrepareSettings(dataset=str(source), labels=labels))
    check(PrepareSettings(dataset=str(source), labels="may be in it.csv", run_dir=str(tmp_path / "run")))
    assert "'gone.csv' is nowhere" in refusal(PrepareSettings(dataset="scenes", labels="gone.csv"))


def test_previews_of_arrays_are_refused_at_launch(tmp_path):
    for n in range(9):
        (tmp_path / f"{n}.npy").touch()
    (tmp_path / "preview.jpg").touch()
    assert "beside 1 images, such as 'preview.jpg', lie 9 arrays" in refusal(PrepareSettings(dataset=str(tmp_path)))


def test_bands_and_masks_are_refused_at_launch(tmp_path):
    for kinds, fact in (
        (("B02", "B03"), "looks like one band of a sample"),
        (("sat", "mask"), "look like masks of images"),
    ):
        folder = tmp_path / kinds[0]
        folder.mkdir()
        for n in range(5):
            for kind in kinds:
                (folder / f"{n}_{kind}.tif").touch()
        assert fact in refusal(PrepareSettings(dataset=str(folder)))
        check(PrepareSettings(dataset=str(folder), pattern="*", run_dir=str(tmp_path / "run")))


def test_launch_looks_at_no_more_than_takes_two_seconds(tmp_path, monkeypatch):
    """With thresholds a thousandth of what they are: of more files and rows the first are looked at."""
    monkeypatch.setattr(early, "AT_LAUNCH", 100)
    monkeypatch.setattr(early, "MOST_BYTES", 2**12)
    monkeypatch.setattr(tables, "MOST_WHOLE", 2**12)
    source = tmp_path / "set"
    for n in range(150):
        (source / f"{n % 3}").mkdir(parents=True, exist_ok=True)
        (source / f"{n % 3}" / f"{n}.jpg").touch()
    (tmp_path / "long.csv").write_text("image,label\n" + "gone.jpg,x\n" * 2000)
    (tmp_path / "bare.txt").write_text("0/0.jpg 3\n1/1.jpg 4\n" * 500)
    (tmp_path / "long.json").write_text(COCO[:-1] + " " * 5000 + "}")
    (tmp_path / "labels.json").write_text('{"0.jpg": "a", ' + " " * 5000 + "broken")
    for n in range(200):  # files that are no images count too
        (source / f"{n}.npy").touch()
    check(PrepareSettings(dataset=str(source), run_dir=str(tmp_path / "run")))
    for n in range(200):
        (source / f"{n}.npy").unlink()
    for files in (150, 60):  # of which not all, and all, are known by name
        for name in ("long.csv", "bare.txt", "labels.json"):  # what stands further down is for the job to read
            check(PrepareSettings(dataset=str(source), labels=str(tmp_path / name), run_dir=str(tmp_path / "run")))
        for name, fact in (("long.csv:label=y", "no column 'y' for label"), ("long.json", "boxes of objects (COCO)")):
            assert fact in refusal(PrepareSettings(dataset=str(source), labels=str(tmp_path / name)))
        for n in range(60, files):
            (source / f"{n % 3}" / f"{n}.jpg").unlink()


@pytest.mark.long
def test_launch_takes_two_seconds_of_a_large_set(tmp_path):
    for k in range(10):
        (tmp_path / "set" / f"{k}").mkdir(parents=True)
        for n in range(20_000):
            (tmp_path / "set" / f"{k}" / f"{k}_{n}.jpg").touch()
    with open(tmp_path / "labels.csv", "w") as file:
        file.write("image,label\n")
        file.writelines(f"{n % 10}_{n // 10}.jpg,{n % 10}\n" for n in range(2_000_000))
    started = time.process_time()
    check(
        PrepareSettings(
            dataset=str(tmp_path / "set"), labels=str(tmp_path / "labels.csv"), run_dir=str(tmp_path / "run")
        )
    )
    assert time.process_time() - started < 2
