"""What the file system must have for a run: refused in one sentence before anything is made."""

import pytest

from geofm_lib.runs.check import check
from geofm_lib.settings import PrepareSettings, PretrainSettings, ProbeSettings, SettingsError
from tests.support.pictures import class_folders


def refusal(settings, ranks=0):
    with pytest.raises(SettingsError) as caught:
        check(settings, ranks)
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


def test_an_encoder_that_is_none(tmp_path):
    assert "holds no model.safetensors" in refusal(ProbeSettings(encoder=str(tmp_path)))


def test_ranks_that_do_not_fit():
    assert "3 divides" in refusal(PretrainSettings(strategy="HYBRID_3GPUs"), ranks=4)


def test_constructors_look_at_no_file(tmp_path):
    PretrainSettings(dataset=str(tmp_path / "none"), data=str(tmp_path / "none"), run_dir="/proc/none")


def test_what_can_run_is_not_refused(tmp_path):
    check(PretrainSettings(run_dir=str(tmp_path / "run")), ranks=2)
    assert not list(tmp_path.iterdir())


def test_labels_that_cannot_be_had_are_refused_at_launch(tmp_path):
    source = class_folders(tmp_path / "set")
    for labels, fact in (
        ("nothing.csv", "labels: 'nothing.csv' is neither here nor in"),
        ("table.csv:kind=x", "labels: 'kind' of 'kind=x' is none of path, label, side, group"),
        (",", "labels: ',' names no file"),
    ):
        assert fact in refusal(PrepareSettings(dataset=str(source), labels=labels))
    (source / "labels.csv").write_text("image,label\n")
    check(PrepareSettings(dataset=str(source), labels="labels.csv", run_dir=str(tmp_path / "run")))
    check(PrepareSettings(dataset=str(source), labels="folders", run_dir=str(tmp_path / "run")))
