"""Settings: what a notebook, papermill or a grid can get wrong is refused in one sentence that names the fix."""

from pathlib import Path

import nbformat
import pytest

from geofm_lib import files, settings
from geofm_lib.data.sources import listing
from geofm_lib.report.colophon import colophon
from geofm_lib.runs.run import Run, run_table, shown
from geofm_lib.settings import (
    FindingsSettings,
    PaperSettings,
    PeersSettings,
    PrepareSettings,
    PretrainSettings,
    ProbeSettings,
    ScalingSettings,
    SettingsError,
    SimulateSettings,
    ThroughputSettings,
    places,
)

ALL = (
    PrepareSettings, PretrainSettings, ThroughputSettings, SimulateSettings, ProbeSettings, ScalingSettings,
    PaperSettings, FindingsSettings, PeersSettings,
)  # fmt: skip

REFUSED = {
    "an unknown name": ({"stratgy": "FULL_SHARD"}, "unknown setting 'stratgy'; did you mean 'strategy'?"),
    "a name like no other": (
        {"foo": 1},
        "unknown setting 'foo'; the settings here are dataset, images_per_class, data, ",
    ),
    "a strategy that does not exist": ({"strategy": "FULL_SHRD"}, "did you mean 'FULL_SHARD'?"),
    "a shard group that does not divide": ({"strategy": "HYBRID_3GPUs", "ranks": 4}, "3 divides; 4 ranks"),
    "a batch the ranks cannot share": ({"global_batch": 101, "ranks": 2}, "use 100 or 102"),
    "a size the patch does not divide": ({"image_size": 60}, "use for example 56 or 64"),
    "a negative learning rate": ({"base_learning_rate": -1e-3}, "greater than 0"),
    "an infinite learning rate": ({"base_learning_rate": "inf"}, "base_learning_rate: 'inf' cannot be used"),
    "no epoch": ({"epochs": 0}, "greater than or equal to 1"),
    "an unknown model": ({"model": "ViT-Femo"}, "did you mean 'ViT-Femto'?"),
    "an unknown precision": ({"precision": "bf61"}, "did you mean 'bf16'?"),
    "a truth value for a number": ({"epochs": True}, "a number is needed"),
    "a decoder that the recipe has not": (
        {"recipe": "fast", "decoder_depth": 2},
        "decoder_depth: 2 is not of recipe=fast, which sets 1; leave out one of them",
    ),
    "an unknown recipe": ({"recipe": "fats"}, "did you mean 'fast'?"),
    "a word for a number": ({"epochs": "many"}, "epochs: 'many' cannot be used"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    values, sentence = REFUSED[case]
    with pytest.raises(SettingsError) as caught:
        PretrainSettings(**values)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_sets_what_is_not_given():
    fast = PretrainSettings(recipe="fast")
    assert fast.decoder() == PretrainSettings().decoder() | {"decoder_depth": 1}
    assert PretrainSettings(**fast.asked()) == fast, "as settings.json keeps it"
    assert PretrainSettings(recipe="fast", decoder_depth=1) == fast


def test_two_faults_are_both_told():
    with pytest.raises(SettingsError, match="epochs.*base_learning_rate|base_learning_rate.*epochs"):
        PretrainSettings(epochs=0, base_learning_rate=-1)


def test_settings_are_shown_as_text():
    """A value, and a meaning such as runs/<a name>, is no HTML."""
    shown = PretrainSettings(run_dir="<script>")._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "&lt;a name from the settings&gt;" in shown


def test_takes_what_papermill_and_a_terminal_give():
    """`-p flag false` arrives as the string "false"; the runner hands over every value as typed."""
    got = PretrainSettings(norm_pix_loss="false", epochs="3", base_learning_rate="1e-4", run_dir="012")
    assert (got.norm_pix_loss, got.epochs, got.base_learning_rate, got.run_dir) == (False, 3, 1e-4, "012")


def test_reads_only_the_parameters_cell_and_the_injected_one():
    cell = PretrainSettings.parameters_cell()
    namespace = {
        "In": ["", cell, "# Parameters\nepochs = 7\n", "run_dirr = 'mine'\nstrategy = 'DDP'"],
        "run_dirr": "mine",
    }
    for source in (cell, "epochs = 7"):
        exec(source, namespace)
    namespace["strategy_note"] = "my own variable"
    assert PretrainSettings.from_notebook(namespace).epochs == 7
    assert PretrainSettings.from_notebook(namespace).epochs == 7  # running the cell again is no error
    namespace["In"].append("# Parameters\nepoch = 7\n")
    namespace["epoch"] = 7
    with pytest.raises(SettingsError, match="unknown setting 'epoch'; did you mean 'epochs'?"):
        PretrainSettings.from_notebook(namespace)


@pytest.mark.parametrize("cls", ALL)
def test_parameters_cell_says_what_the_class_says(cls):
    """papermill finds every field in the cell, with its default."""
    from papermill.translators import PythonTranslator  # the parser behind `papermill --help-notebook`

    namespace = {}
    exec(cls.parameters_cell(), namespace)
    assert {n: namespace[n] for n in cls.model_fields} == {n: f.default for n, f in cls.model_fields.items()}
    found = PythonTranslator.inspect(nbformat.v4.new_code_cell(cls.parameters_cell()))
    assert [p.name for p in found] == list(cls.model_fields)
    assert cls(**{n: namespace[n] for n in cls.model_fields}) == cls()


def test_accumulation_keeps_the_global_batch():
    wide = PretrainSettings(global_batch=96, max_batch_per_rank=10)
    assert [wide.accumulation(ranks) for ranks in (1, 2, 4)] == [12, 6, 3]
    assert PretrainSettings(global_batch=96).accumulation(2) == 1


def test_what_only_changes_speed_does_not_change_the_run():
    base = PretrainSettings()
    assert base.results_only() == PretrainSettings(ranks=2, strategy="DDP", checkpoint_every=9).results_only()
    assert base.results_only() != PretrainSettings(seed=1).results_only()
    assert base.name() != PretrainSettings(strategy="DDP").name()  # yet two strategies are two folders


def test_runs_go_beside_the_notebooks(tmp_path, monkeypatch):
    monkeypatch.delenv("GEOFM_RUNS")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "geofm_lib").mkdir()
    (tmp_path / "batch" / "grids").mkdir(parents=True)
    for here in (tmp_path, tmp_path / "notebooks", tmp_path / "batch" / "grids"):
        monkeypatch.chdir(here)
        assert settings.runs_root() == tmp_path.resolve() / "runs", "one folder for the whole clone"
        assert settings.clone() == tmp_path.resolve()
    (tmp_path / "notebooks").rmdir()
    assert settings.clone() is None
    assert settings.runs_root() == here / "runs", "outside of a clone: beside the user"
    monkeypatch.setenv("GEOFM_RUNS", "elsewhere")
    assert settings.runs_root() == here / "elsewhere"


@pytest.fixture
def a_clone(tmp_path, monkeypatch):
    """A clone with images in it and a link to them; the current folder is below it."""
    place = tmp_path / "clone"
    for name in ("notebooks", "geofm_lib", "imgs/a", "deep/er"):
        (place / name).mkdir(parents=True)
    (place / "deep" / "link").symlink_to(place / "imgs")
    monkeypatch.chdir(place / "deep" / "er")
    return place


def test_a_checkpoint_of_a_run_has_one_spelling_and_its_step_in_the_name(a_clone):
    assert places.at_step("runs/a@1200") == ("runs/a", 1200)
    assert places.at_step("runs/a@12x") == ("runs/a@12x", None)
    (a_clone / "imgs@12").mkdir()
    assert places.at_step("imgs@12") == ("imgs@12", None), "a folder that is there"
    names = {ProbeSettings(encoder=each).name() for each in ("imgs@7", "./imgs@007", f"{a_clone}/deep/link@7")}
    assert len(names) == 1
    assert "imgs_7" in names.pop()
    assert ProbeSettings(encoder="imgs@7").name() != ProbeSettings(encoder="imgs@8").name()


def test_every_spelling_of_a_path_is_one_preparation_and_one_run(a_clone):
    spellings = [
        "imgs",
        "./imgs",
        "imgs/",
        " imgs",
        "deep/../imgs",
        "deep/link",
        str(a_clone / "imgs"),
        f"{a_clone}/imgs/",
    ]
    for cls, field in ((PrepareSettings, "dataset"), (PretrainSettings, "dataset"), (ProbeSettings, "encoder")):
        names = {cls(**{field: each}).name() for each in spellings}
        assert len(names) == 1
        assert names != {cls(**{field: "imgs2"}).name()}
    for data in ("imgs,deep", "./deep,imgs/"):  # several data sets are one set of them
        assert PretrainSettings(data=data).name() == PretrainSettings(data=f"{a_clone}/imgs,deep").name()


def test_a_relative_path_is_one_place_from_every_folder_of_a_clone(a_clone, tmp_path, monkeypatch):
    asked = PretrainSettings(run_dir="runs/x", dataset="imgs")
    (a_clone / "imgs" / "1.jpg").touch()
    for here in (a_clone, a_clone / "notebooks"):
        monkeypatch.chdir(here)
        assert asked.folder() == a_clone / "runs" / "x"
        assert listing.find("imgs").path == a_clone / "imgs"
    inside = asked.name()
    a_clone.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert asked.name() == inside, "a clone that moves keeps its runs"
    monkeypatch.chdir(tmp_path)
    assert asked.folder() == tmp_path / "runs" / "x", "outside of a clone: from here"


def test_a_printed_path_can_be_pasted_into_a_shell_and_a_setting(a_clone, tmp_path, monkeypatch):
    for here in (a_clone, a_clone / "deep", tmp_path):
        monkeypatch.chdir(here)
        for run in (a_clone / "runs" / "x", tmp_path / "y"):
            text = shown(run)
            assert Path(text).absolute() == run == settings.expanded(text)
    monkeypatch.chdir(a_clone)
    assert shown(a_clone / "runs" / "x") == "runs/x"


def test_the_names_of_runs_on_the_built_in_scenes_stay(tmp_path, monkeypatch):
    """A name is a folder that somebody has; it is the same in a clone and outside of one."""
    names = {cls().name() for cls in (PrepareSettings, PretrainSettings, ProbeSettings)}
    monkeypatch.chdir(tmp_path)
    assert {cls().name() for cls in (PrepareSettings, PretrainSettings, ProbeSettings)} == names


@pytest.mark.parametrize(
    ("given", "read"), [(-9999, "-9999"), ("nan", "nan"), (" 0 ", "0"), ("none", "none"), ("", "")]
)
def test_nodata_is_a_number_or_a_word(given, read):
    assert PrepareSettings(nodata=given).nodata == read
    with pytest.raises(SettingsError, match="'0,5' is no number; give the value of what was not measured, or 'none'"):
        PrepareSettings(nodata="0,5")


def test_what_data_overrules_is_not_shown_as_if_it_counted():
    rows = PretrainSettings(data="runs/a")._repr_html_()
    assert rows.count("not used: data is given") == 2
    assert "not used" not in PretrainSettings()._repr_html_()


@pytest.mark.parametrize("members", [[], ["ucm", "aid"]])
def test_tables_and_colophon_name_the_data_that_was_read(tmp_path, members):
    data, run = tmp_path / "prepared", Run(tmp_path / "runs" / "probe")
    for folder in (data, run.folder):
        folder.mkdir(parents=True)
    asked = {"job": "prepare", "asked": {"dataset": "photos/ucm.tar" if not members else "a,b"}}
    files.write_json(data / "settings.json", asked)
    if members:
        sets = [{"set": each, "folder": each, "fingerprint": ""} for each in members]
        files.write_json(data / "union.json", {"members": sets})
    stored = {"job": "probe", "asked": ProbeSettings(data=str(data)).asked(), "resolved": {"data": str(data)}}
    files.write_json(run.folder / "settings.json", stored)
    files.write_json(run.folder / "summary.json", {"status": "finished"})
    name = " + ".join(members) or "ucm"
    (row,) = run_table(tmp_path / "runs").to_dict("records")
    assert (run.dataset, row["dataset"], row["images_per_class"]) == (name, name, None)
    page = str(colophon(run))
    assert name in page and "scenes" not in page and "images_per_class" not in page
    files.write_json(run.folder / "settings.json", stored | {"asked": ProbeSettings().asked()})
    assert run.dataset == "scenes" and "dataset='scenes'" in str(colophon(run))
