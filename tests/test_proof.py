"""A finished folder is proved: what changes in it is found and named, and harms nothing else."""

import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from geofm_lib import files
from geofm_lib.data.shards import LISTS, Shards
from geofm_lib.data.sources import prepared as source
from geofm_lib.distributed import checkpoint, manifest
from geofm_lib.jobs import pretrain_files, run_folder
from geofm_lib.model.interop import export, load
from geofm_lib.report import page
from geofm_lib.runs import overview
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import Run, find_runs, run_table
from geofm_lib.settings import PrepareSettings, PretrainSettings, Resolved, SettingsError
from tests.conftest import ROOT, need
from tests.support.executions import PRETRAIN, Execution
from tests.support.timing import scaled

FLIPS = 50
ALONE = SimpleNamespace(rank=0, world_size=1, broadcast=lambda value: value, gather=lambda value: [value])
# What stands in a run folder and is no result: how it was made, and pages, which are made anew.
HARMLESS = (
    "log.txt",
    "live.html",
    "checkpoint/latest",
    "heartbeats/0",
    "heartbeats/launcher",
    "owners/0001.json",
    "owners/0001.ended",
)


@pytest.fixture(scope="module")
def place():
    """A folder that other users may look into."""
    with tempfile.TemporaryDirectory(prefix="geofm-proof-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def prepared(place):
    return launch(PrepareSettings(images_per_class=4, scene_size=24, run_dir=str(place / "data")))


@pytest.fixture(scope="module")
def asked(prepared, place):
    usual = {"model": "ViT-Atto", "image_size": 16, "patch_size": 8, "decoder_depth": 1, "decoder_width": 16}
    usual |= {"epochs": 2, "warmup_epochs": 1, "global_batch": 16, "ranks": 1, "log_every": 1, "checkpoint_every": 2}
    return usual | {"decoder_heads": 1, "data": str(prepared.folder), "run_dir": str(place / "runs" / "run")}


@pytest.fixture(scope="module")
def run(asked):
    return launch(PretrainSettings(**asked))


@pytest.fixture
def copied(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "runs" / "run")
    return Run(tmp_path / "runs" / "run")


def flips(file: Path, seed: int = 0):
    """Flip one random bit of the file, FLIPS times, each mended before the next."""
    chance, content = random.Random(f"{file.name} {seed}"), file.read_bytes()
    for _ in range(FLIPS if content else 0):
        changed = bytearray(content)
        changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(changed)
        yield
    file.write_bytes(content)


def fault_of(run: Run) -> str:
    """What reading everything of a run says, '' if nothing."""
    try:
        run.prove()
    except files.Damaged as fault:
        return str(fault)
    found = [manifest.verify(step, ALONE)[0] for step in run.folder.glob(f"checkpoint/{checkpoint.STEPS}")]
    return "; ".join(filter(None, found))


def flip_all(run: Run, harmless: set[str]) -> None:
    """Flips in every file of a run are found and named, or change nothing that is read of it."""
    names = {each.relative_to(run.folder).as_posix() for each in run.folder.rglob("*") if each.is_file()}
    assert {"settings.json", "summary.json", "environment.json", "encoder/config.json", "reconstruction.npz"} <= names
    assert harmless <= names
    assert fault_of(run) == ""
    for name in sorted(names - harmless):
        for _ in flips(run.folder / name):
            said = fault_of(run)
            assert Path(name).name in said or (Path(name).name == files.SUMS and files.SUMS in said), name
            assert "\n" not in said
    before = run_table(run.folder.parent).to_dict()
    for name in harmless:
        for _ in flips(run.folder / name):
            assert run.status == "finished"
    for name in harmless:
        (run.folder / name).write_bytes(os.urandom(40))
    assert run_table(run.folder.parent).to_dict() == before
    assert run.saved_step == run.summary["steps"]


def test_a_flip_in_any_file_of_a_run_is_found_and_named(copied):
    flip_all(copied, {*HARMLESS})


@pytest.mark.long
def test_a_flip_in_any_file_of_a_run_with_a_page(asked, tmp_path):
    """The same of what `geofm run` leaves. A spoilt page is made anew by the same command."""
    given = {**asked, "run_dir": tmp_path / "run"}
    first = Execution(tmp_path, PRETRAIN, given)
    assert first.end() == 0, first.output
    flip_all(first.run, {*HARMLESS, "notebook.ipynb", "report.html", "page.json", "execution.json"})
    again = Execution(tmp_path, PRETRAIN, given)
    assert again.end() == 0, again.output
    assert "FINISHED" in (first.run.folder / "report.html").read_text().upper()


def test_every_reader_of_an_encoder_says_what_has_changed(copied, tmp_path):
    encoder = copied.folder / "encoder"
    for name in ("model.safetensors", "config.json", "SHA256SUMS"):
        for number, _ in enumerate(flips(encoder / name, seed=1)):
            if number < 5:
                if name != files.SUMS:  # there it may be the decoder's line, which this does not read
                    with pytest.raises(ValueError, match=name):
                        load.load_encoder(copied.folder)
                with pytest.raises(ValueError, match=name):
                    export.convert(encoder, tmp_path / "exported", "vitmae")
    export.convert(encoder, tmp_path / "exported", "vitmae")
    weights = tmp_path / "exported" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 64  # the exponent of a weight
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors is not what was written"):
        load.load_encoder(tmp_path / "exported")
    (tmp_path / "exported" / files.SUMS).unlink()
    load.load_encoder(tmp_path / "exported")  # taken as it is, which the sentence says


@pytest.mark.parametrize("name", ["reconstruction.npz", "metrics.jsonl", "ranks.csv", "encoder/model.safetensors"])
def test_a_changed_result_is_never_read_again_as_if_it_were_whole(copied, asked, name):
    for _ in itertools.islice(flips(copied.folder / name), 1):
        with pytest.raises(ValueError, match=f"{name} is not what was written.*restore it.*or delete"):
            launch(PretrainSettings(**asked | {"run_dir": str(copied.folder)}))


def test_a_flip_in_a_prepared_folder_is_found_and_named(prepared, tmp_path):
    shutil.copytree(prepared.folder, tmp_path / "data")
    for name in LISTS:
        for _ in flips(tmp_path / "data" / name):
            for read in (Shards, source.check):
                with pytest.raises(ValueError, match=name):
                    read(tmp_path / "data")
    good = Shards(tmp_path / "data")
    whole = [good.decode(i) for i in range(len(good))]
    found = 0
    for _ in flips(tmp_path / "data" / "shards" / "000000.tar"):
        shards = Shards(tmp_path / "data")
        for i, name in enumerate(shards.names):
            try:
                assert torch.equal(shards.decode(i), whole[i])  # else a tar's header or padding, which nobody reads
            except ValueError as fault:
                found += 1
                assert name in str(fault)
    assert found > FLIPS / 4


SPOILED = {
    "cut short": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "another kind of JSON": lambda file: file.write_text("[1]"),
    "no text": lambda file: file.write_bytes(b"\xff\xfe\x00"),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", ["settings.json", "summary.json", "environment.json"])
def test_an_unreadable_small_file_harms_its_own_run_only(run, tmp_path, name, sealed):
    root = tmp_path / "runs"
    for each in ("good", *SPOILED):
        shutil.copytree(run.folder, root / each, ignore=shutil.ignore_patterns("checkpoint"))
        if not sealed:
            (root / each / files.SUMS).unlink()
    for each, spoil in SPOILED.items():
        spoil(root / each / name)
    table = run_table(root).set_index("folder")
    assert {Path(folder).name for folder in table.index} == {"good", *SPOILED}
    assert table.loc[str(root / "good"), "status"] == "finished"
    # a file that was never there is no damage, but for settings.json
    damaged = {*SPOILED} if sealed or name == "settings.json" else {*SPOILED} - {"gone"}
    assert {Path(folder).name for folder in table.index[table["status"] == "damaged"]} == damaged
    said = overview.of_all(root)
    for each in damaged:
        fault = Run(root / each).trouble
        assert f"{each}/{name} " in fault
        assert "\n" not in fault
        assert fault in said
        assert fault in overview.of_run(root / each)
        if name == "settings.json":
            assert fault.endswith("move the folder away and start that run again"), "no checkpoint keeps it"
        with pytest.raises(SettingsError, match=name):
            launch(PretrainSettings(run_dir=str(root / each)))
    assert len(find_runs(root)) == len(SPOILED) + 1


def test_a_lost_settings_file_comes_back_from_the_checkpoint(copied, asked):
    file = copied.folder / "settings.json"
    before = file.read_bytes()
    for spoil in ("gone", "cut short"):
        SPOILED[spoil](file)
        assert copied.settings["model"] == "ViT-Atto"  # tables have it all the same
        assert "run again: it is rebuilt from the last checkpoint" in copied.trouble
        with pytest.raises(SettingsError, match="settings.json .*run again: it is rebuilt"):
            PretrainSettings(branch=str(copied.folder))
        read = launch(PretrainSettings(**asked | {"run_dir": str(copied.folder)}))
        assert read.status == "finished"
        assert file.read_bytes() == before


def test_a_run_killed_after_its_last_checkpoint_keeps_its_numbers(copied, asked):
    before = copied.summary
    for name in ("summary.json", "SHA256SUMS"):
        (copied.folder / name).unlink()
    with open(copied.folder / "history.jsonl", "w") as history:
        history.write('{"job": "", "restart": "", "no')  # the power went
    again = launch(PretrainSettings(**asked | {"run_dir": str(copied.folder)})).summary
    assert again["loss"] == before["loss"]
    assert again["images_per_s"] == before["images_per_s"]
    assert again.keys() == before.keys()
    assert [row["status"] for row in copied.slices] == ["unknown", "finished"]
    assert fault_of(copied) == ""


def done(fault: str) -> None:
    """Delete what a sentence says is to be deleted, word by word."""
    told = re.split(r"[: ]*(?:to take|and start that run|start that run|only)", fault.split("delete ")[-1])[0]
    for each in told.split(" and "):
        Path(each).unlink()


@pytest.mark.parametrize("spoil", ["empty", "gone"])
@pytest.mark.parametrize("name", ["summary.json", "environment.json"])
def test_what_is_said_of_a_damaged_small_file_is_enough(copied, asked, name, spoil):
    before = copied.seconds
    SPOILED[spoil](copied.folder / name)
    with pytest.raises(SettingsError) as fault:
        launch(PretrainSettings(**asked | {"run_dir": str(copied.folder)}))
    assert copied.trouble in str(fault.value)
    done(copied.trouble)
    assert copied.status == ("unknown" if name == "summary.json" else "finished")
    if (name, spoil) == ("summary.json", "gone"):
        return  # as above
    assert launch(PretrainSettings(**asked | {"run_dir": str(copied.folder)})).status == "finished"
    if name == "summary.json":
        assert [row["status"] for row in copied.slices] == ["unknown", "finished"]
        assert "without a word" not in overview.of_run(copied.folder)
        assert copied.slices[0]["seconds"] <= before + 3, "to its last heartbeat, not to the file's damage"


def test_a_changed_result_has_one_way_out_for_every_reader(copied, asked, tmp_path):
    weights = copied.folder / "encoder" / "model.safetensors"
    for _ in itertools.islice(flips(weights), 1):
        assert copied.status == "damaged"
        said = {copied.trouble}
        for read in (
            lambda: launch(PretrainSettings(**asked | {"run_dir": str(copied.folder)})),
            lambda: export.convert(copied.folder, tmp_path / "exported", "vit"),
            lambda: load.load_encoder(copied.folder / "encoder"),
            copied.prove,
        ):
            with pytest.raises(ValueError, match="is not what was written") as fault:
                read()
            said.add(str(fault.value).removeprefix("run_dir: "))
        assert len(said) == 1, said
        assert said.pop() in overview.of_all(copied.folder.parent)
        done(copied.trouble)
        assert launch(PretrainSettings(**asked | {"run_dir": str(copied.folder)})).status == "finished"
        load.load_encoder(copied.folder / "encoder")
    for name in ("encoder/SHA256SUMS", "SHA256SUMS"):  # a seal that is damaged itself
        (copied.folder / name).write_text("x")
        done(copied.trouble) if name == "SHA256SUMS" else (copied.folder / name).unlink()
    assert copied.status == "finished"


def test_settings_that_were_changed_are_told_before_a_rank_starts(copied, asked):
    file, usual = copied.folder / "settings.json", PretrainSettings(**asked | {"run_dir": str(copied.folder)})
    before = file.read_bytes()
    for name in ("summary.json", "SHA256SUMS"):
        (copied.folder / name).unlink()
    for change in (
        lambda each: each["asked"].update(epochs=3),
        lambda each: each["asked"].update(epochs="many"),
        lambda each: each["asked"].pop("global_batch"),
        lambda each: each["resolved"].update(data_fingerprint="another"),
        lambda each: each.update(job="probe"),
        lambda each: each.update(asked=[]),
        lambda each: each.clear(),
    ):
        found = json.loads(before)
        change(found)
        file.write_text(json.dumps(found))
        assert copied.status == "damaged"
        assert copied.trouble in overview.of_all(copied.folder.parent)
        assert copied.trouble.endswith("delete it and start that run again: it is rebuilt from the last checkpoint")
        for settings in (usual, usual.model_copy(update={"epochs": 3})) if found else ():  # {} is rebuilt
            with pytest.raises(
                SettingsError, match="(was changed|is no settings.json of a run).*delete it and start that run"
            ):
                launch(settings)
    file.unlink()
    more = usual.model_copy(update={"checkpoint_every": 3, "strategy": "DDP"})
    assert launch(more).status == "finished", "what one start may change is no damage"
    (copied.folder / "SHA256SUMS").unlink()
    assert copied.status == "finished"
    assert copied.slices[0]["status"] == "unknown"


def test_the_newest_whole_checkpoint_counts_whatever_latest_says(copied):
    steps = copied.summary["steps"]
    for text in ("step-00000099", "", "nonsense", "step-"):
        (copied.folder / "checkpoint" / "latest").write_text(text)
        assert copied.saved_step == steps
    (copied.folder / "checkpoint" / "latest").unlink()
    assert copied.saved_step == steps
    assert len(list(copied.folder.glob("checkpoint/step-*"))) == 2
    (copied.folder / "checkpoint" / f"step-{steps:08d}").rename(copied.folder / "checkpoint" / f"damaged-{steps:08d}")
    assert copied.saved_step == 2


def test_data_that_moved_are_known_by_their_fingerprint(run, asked, prepared, tmp_path):
    shutil.copytree(prepared.folder, tmp_path / "moved")
    assert launch(PretrainSettings(**asked | {"data": str(tmp_path / "moved")})).status == "finished"
    (tmp_path / "moved" / "split.csv").write_text("name,split\n")
    with pytest.raises(SettingsError, match=r"other settings: data \("):
        launch(PretrainSettings(**asked | {"data": str(tmp_path / "moved")}))


def test_a_checkpoint_of_other_settings_is_refused_by_their_names():
    def identity(fingerprint="f1", **values):
        return pretrain_files.identity(PretrainSettings(**values), Resolved(data_fingerprint=fingerprint))

    usual = identity()
    assert manifest.differing(usual, identity(ranks=4, strategy="DDP", run_dir="x", checkpoint_every=3)) == []
    assert manifest.differing(usual, identity(dataset="elsewhere", data="moved")) == []  # the fingerprint says more
    assert manifest.differing(usual, identity("f2")) == ["data: 'f1' there, 'f2' now"]
    others = {"base_learning_rate": 0.5, "mask_ratio": 0.5, "norm_pix_loss": False, "precision": "bf16", "epochs": 3}
    for name, value in (others | {"clip_grad_norm": 2.0, "global_batch": 20, "crop_scale_min": 0.5}).items():
        (said,) = manifest.differing(usual, identity(**{name: value}))
        assert said == f"{name}: {PretrainSettings.model_fields[name].default!r} there, {value!r} now"
    old = {"model": "ViT-Femto", "data": "f1", "seed": 0}  # what a checkpoint knew before
    assert manifest.differing(old, identity(mask_ratio=0.5)) == []
    assert manifest.differing(old, identity(seed=1)) == ["seed: 0 there, 1 now"]
    assert manifest.differing({}, identity())[0] == "model: None there, 'ViT-Femto' now"


COLLEAGUE = """
import sys
from pathlib import Path
from geofm_lib.figures import pretrain
from geofm_lib.runs import overview
from geofm_lib.runs.launch import launch
from geofm_lib.runs.run import run_table
from geofm_lib.settings import PretrainSettings, ProbeSettings
asked, probe = eval(sys.argv[1]), eval(sys.argv[2])
try:
    open(Path(asked["run_dir"], "mine"), "w")
except PermissionError:
    run = launch(PretrainSettings(**asked))
    assert "training loss" in pretrain.loss(run).alt and "rebuilt" in pretrain.reconstruction(run).alt
    assert list(run_table(run.folder.parent)["status"]) == ["finished"], run_table(run.folder.parent)
    assert "finished" in overview.of_run(run.folder) and "1 finished" in overview.of_all(run.folder.parent)
    print(launch(ProbeSettings(**probe)).summary["verdict"])
"""
ROOTS_RIGHTS = "-dac_override,-dac_read_search,-fowner"  # to write everywhere


def test_a_colleagues_finished_run_is_read_tabled_drawn_and_probed(run, asked, place, tmp_path):
    """It belongs to somebody else (where this user may give files away) and cannot be written."""
    probe = {"encoder": str(run.folder), "data": asked["data"], "image_size": 16, "epochs": 1, "views": 1, "ranks": 1}
    probe |= {"warmup_epochs": 0, "probe_seeds": 1, "compare_random": False, "run_dir": str(tmp_path / "probe")}
    words, tree = [sys.executable, "-c", COLLEAGUE, repr(asked), repr(probe)], [place, *place.rglob("*")]
    if os.geteuid() == 0:
        need("setpriv")
        words = ["setpriv", f"--bounding-set={ROOTS_RIGHTS}", f"--inh-caps={ROOTS_RIGHTS}", *words]
    for each in tree:
        if os.geteuid() == 0:
            os.chown(each, 65534, 65534)
        each.chmod(0o555 if each.is_dir() else 0o444)
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=scaled(120))
    finally:
        for each in tree:
            each.chmod(0o755 if each.is_dir() else 0o644)
    assert done.returncode == 0, done.stderr
    assert "top-1" in done.stdout.splitlines()[-1]


def test_a_small_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
    )
    for name in ("settings.json", "summary.json", "environment.json"):
        files.write_json(tmp_path / name, {})
        assert re.fullmatch(rf"\.{re.escape(name)}-\w+\.new", synced[-1])


def test_a_page_whose_facts_cannot_be_read_harms_no_index(tmp_path):
    facts = {
        **dict.fromkeys(page.NEEDED, ""),
        "title": "Is it good?",
        "parameters": {},
        "seconds": 3.0,
        "status": "finished",
    }
    for name, text in {"a": json.dumps(facts), "b": json.dumps(facts)[:20], "c": "{}"}.items():
        (tmp_path / f"{name}.html").write_text("")
        (tmp_path / f"{name}.json").write_text(text)
    index = page.write_index(tmp_path).read_text()
    assert "Is it good?" in index
    assert index.count("DAMAGED") == 2
    assert "b.json cannot be read" in index


def test_what_is_no_result_is_not_sealed(copied):
    listed = set(files.sums(copied.folder))
    assert not listed & run_folder.UNSEALED
    assert not [name for name in listed if name.startswith(("checkpoint", "heartbeats", "."))]
    done = subprocess.run(["sha256sum", "--quiet", "-c", files.SUMS], cwd=copied.folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
