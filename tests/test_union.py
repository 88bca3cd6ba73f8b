"""Several prepared folders as one data set: nothing is copied, and no test image of any of them is trained on."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from geofm_lib import files
from geofm_lib.data import overlap, union
from geofm_lib.data.sample import ROW
from geofm_lib.data.shards import Shards
from geofm_lib.data.sources import listing, prepared
from geofm_lib.runs import launch
from geofm_lib.runs.check import check
from geofm_lib.runs.run import Run
from geofm_lib.settings import PrepareSettings, PretrainSettings, SettingsError, expanded
from tests.support.pictures import encode
from tests.support.preparations import prepared as prepare

EACH = 8  # images of a class


def picture(seed):
    """One that no other seed's looks like, with detail at all the frequencies of a look."""
    small = np.random.default_rng(seed).integers(0, 255, (14, 14, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((56, 56), Image.Resampling.BICUBIC)


def make(folder, seed, classes=("a", "b"), extra=None, **options):
    """A prepared folder of a set with classes, and with more files by name, which train."""
    source = folder.parent / f"{folder.name}-files" / folder.name
    for k, label in enumerate(classes):
        (source / label).mkdir(parents=True)
        for i in range(EACH):
            (source / label / f"{i}.jpg").write_bytes(encode(picture(seed + 100 * k + i), "JPEG", quality=95))
    for name, data in (extra or {}).items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(data)
    prepare(folder, source, workers=1, labels="folders", **options)
    rows = files.read_csv(folder / "split.csv")
    for row in rows:
        row["split"] = "train" if row["name"] in (extra or {}) else row["split"]
    files.write_csv(folder / "split.csv", ("name", "split"), rows)
    (folder / "settings.json").write_text(json.dumps({"job": "prepare", "asked": {"dataset": str(source)}}))
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets. Of test images of the first, the second has the same file, a harder JPEG, and a mirrored one."""
    root = tmp_path_factory.mktemp("sets")
    one = make(root / "one", 1000)
    tested = Shards(one, "test")
    assert len(tested) == 8
    planted = [1000 + 100 * (name[0] == "b") + int(name[2]) for name in tested.names[:4]]
    extra = {
        "c/same.jpg": encode(picture(planted[0]), "JPEG", quality=95),
        "c/harder.jpg": encode(picture(planted[1]), "JPEG", quality=60),
        "c/mirrored.jpg": encode(ImageOps.mirror(picture(planted[2])), "JPEG", quality=90),
        "c/turned.png": encode(picture(planted[3]).transpose(Image.Transpose.ROTATE_90)),
    }
    two = make(root / "two", 2000, ("c", "d"), extra)
    return one, two


def unite(folder, *members, **options):
    return prepare(folder, ",".join(map(str, members)), **options)[0]


def test_a_union_copies_nothing_and_keeps_test_images_out(sets, tmp_path):
    one, two = sets
    summary = unite(tmp_path / "both", two, one)
    both, first, second = (Shards(folder) for folder in (tmp_path / "both", one, two))
    assert both.names == [f"one/{name}" for name in first.names] + [f"two/{name}" for name in second.names]
    assert both.classes == ["one/a", "one/b", "two/c", "two/d"]
    assert [both.read(i, verify=True) for i in range(len(both))] == [
        each.read(i, verify=True) for each in (first, second) for i in range(len(each))
    ]
    assert not list((tmp_path / "both").rglob("*.tar"))
    sides = {row["name"]: row["split"] for row in files.read_csv(tmp_path / "both" / "split.csv")}
    leaks = {name.rpartition("/")[2] for name, side in sides.items() if side == union.LEAK}
    assert leaks == {"same.jpg", "harder.jpg", "mirrored.jpg", "turned.png"}
    for name, folder in (("one", one), ("two", two)):
        own = {row["name"]: row["split"] for row in files.read_csv(folder / "split.csv")}
        assert all(sides[f"{name}/{image}"] in (side, union.LEAK) for image, side in own.items())
    rows = {row["set"]: row for row in summary["sets"]}
    assert (rows["one"]["images"], rows["one"]["train"], rows["one"]["test"], rows["one"]["val"]) == (16, 8, 8, 0)
    assert rows["one"]["leaks_exact"] == rows["one"]["leaks_near"] == 0
    assert (rows["two"]["leaks_exact"], rows["two"]["leaks_near"], summary["leaks"]) == (1, 3, 4)
    assert summary["train"] + summary["test"] + summary["leaks"] == summary["images"] == len(both)
    assert "are not trained on" in summary["warnings"][0]


def test_statistics_are_those_of_all_train_pixels(sets, tmp_path):
    summary = unite(tmp_path / "both", *sets)
    train = Shards(tmp_path / "both", "train")
    pixels = np.concatenate([train.decode(i).reshape(3, -1).numpy() / 255 for i in range(len(train))], axis=1)
    np.testing.assert_allclose(train.mean, pixels.mean(1), atol=2e-6)
    np.testing.assert_allclose(train.std, pixels.std(1), atol=2e-6)
    own = [i for i, name in enumerate(train.names) if name.startswith("two/")]
    pixels = np.concatenate([train.decode(i).reshape(3, -1).numpy() / 255 for i in own], axis=1)
    np.testing.assert_allclose(summary["sets"][1]["mean"], pixels.mean(1), atol=2e-6)
    np.testing.assert_allclose(summary["sets"][1]["std"], pixels.std(1), atol=2e-6)


BANDS = {  # names of the bands of both -> part of the warning, or none
    ("B02,B03,B04", "B04,B03,B02"): "the bands of 'two' (B04, B03, B02) have other names than those of 'one' (B02, B03",
    ("red,green,blue", "nir,red,green"): "bands at one place count as the same, so prepare with bands=... in one order",
    ("red,green,blue", "Red,Green,Blue"): "",
    ("red,green,blue", ""): "",
}


@pytest.mark.parametrize("names", BANDS)
def test_bands_of_other_names_are_told(sets, tmp_path, names):
    for folder, bands in zip(sets, names, strict=True):
        file = shutil.copytree(folder, tmp_path / folder.name) / "statistics.json"
        known = {"bands": bands.split(",")} if bands else {}
        files.write_json(file, files.read_json(file) | known)
    told = unite(tmp_path / "both", tmp_path / "one", tmp_path / "two")["warnings"]
    assert len(told) == 1 + bool(BANDS[names]), told
    assert BANDS[names] in told[0]


def test_a_copy_is_as_good_and_one_folder_keeps_its_names(sets, tmp_path):
    """The data files of a preparation alone, moved from another machine; `shards` in it means the whole."""
    one = copy(sets[0], tmp_path / "co,py", "index.csv", "split.csv", "statistics.json", "shards")
    check(PretrainSettings(data=str(one), run_dir=str(tmp_path / "run"), global_batch=8))
    assert launch._data(PretrainSettings(data=str(one), global_batch=8)) == one
    assert prepared.fingerprint(one) == prepared.fingerprint(sets[0])
    summary = prepare(tmp_path / "again", one / "shards")[0]
    assert Shards(tmp_path / "again").names == Shards(one).names
    assert Shards(tmp_path / "again").classes == Shards(one).classes
    assert (summary["train"], summary["test"], summary["leaks"], summary["warnings"]) == (8, 8, 0, [])
    assert "one" not in [row["set"] for row in summary["sets"]], "a copy without settings is called as its folder"


def test_order_and_spelling_make_no_other_run(sets, tmp_path, monkeypatch):
    one, two = sets
    monkeypatch.chdir(one.parent)
    (tmp_path / "link").symlink_to(one)
    spelled = [f"{one},{two}", f"{two},{one}", "./one, two/", f"{tmp_path}/link,{two}/../two"]
    assert len({PretrainSettings(data=text).name() for text in spelled}) == 1
    assert len({PrepareSettings(dataset=text).name() for text in spelled}) == 1
    assert len({PretrainSettings(data=text).preparation().name() for text in spelled}) == 1
    assert PretrainSettings(data=spelled[1]).preparation().name() == PrepareSettings(dataset=spelled[0]).name()
    assert PrepareSettings(dataset=spelled[0]).name().startswith("prepare-2_sets-")
    found = [unite(tmp_path / str(k), text)["fingerprint"] for k, text in enumerate(spelled)]
    assert len(set(found)) == 1
    index = [(tmp_path / str(k) / "split.csv").read_bytes() for k in range(len(spelled))]
    assert len(set(index)) == 1


def copy(folder, target, *names):
    """A copy of a prepared folder, of some of its files only where they are named."""
    chosen = set(names) or {path.name for path in folder.iterdir()}
    return shutil.copytree(folder, target, ignore=lambda at, found: set(found) - chosen if at == str(folder) else ())


def edit(folder, file, change):
    """`folder`, in which a list's rows are changed."""
    rows = files.read_csv(folder / file)
    columns = change(rows) or list(rows[0])
    files.write_csv(folder / file, columns, [{name: row[name] for name in columns} for row in rows])
    return folder


def refusal(**settings):
    """The sentence in which 02 is refused at launch."""
    with pytest.raises(SettingsError) as caught:
        check(PretrainSettings(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lists_that_cannot_be_put_together(sets, tmp_path):
    one, two = sets
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "1.png").write_bytes(encode(picture(1)))
    (tmp_path / "linked").symlink_to(one)
    for job in ("pretrain", "prepare"):
        (tmp_path / job).mkdir()
        (tmp_path / job / "settings.json").write_text(json.dumps({"job": job}))
    four = edit(
        copy(two, tmp_path / "four"), "shards/000000.csv", lambda rows: [r.update(channels=4) for r in rows][:0]
    )
    wide = edit(copy(two, tmp_path / "wide"), "shards/000000.csv",
                lambda rows: [r.update(dtype="uint16") for r in rows][:0])  # fmt: skip
    old = edit(copy(two, tmp_path / "old"), "shards/000000.csv", lambda rows: [n for n in rows[0] if n != "dtype"])
    (copy(two, tmp_path / "lacking") / "split.csv").unlink()
    copy(two, tmp_path / "with, comma")
    rows = {
        f"{one},{one}": "names twice",
        f"{one},{one}/shards": "names twice",
        f"{one}, {tmp_path}/linked": "names twice",
        f"{one},,{two}": "an empty name between its commas",
        f"{one},": "an empty name between its commas",
        f",{one}": "an empty name between its commas",
        f"{one},{tmp_path}/nowhere": "there is no folder",
        f"{one},{tmp_path}/raw": f"prepare it first: geofm run 01 -p dataset {tmp_path}/raw",
        f"{one},scenes": "prepare it first: geofm run 01 -p dataset scenes",
        f"{one},eurosat": "prepare it first: geofm run 01 -p dataset eurosat",
        f"{one},{tmp_path}/pretrain": "is a pretrain run",
        f"{one},{tmp_path}/prepare": "is not finished",
        f"{one},{tmp_path}/with, comma": "whose name has a comma; name a link to it instead",
        f"{one},{four}": f"3 bands of uint8, and '{four}' holds images of 4 bands of uint8",
        f"{one},{wide}": "3 bands of uint16",
        f"{one},{old}": "no rows of this version",
        f"{one},{tmp_path}/lacking": "lacks split.csv",
    }
    for data, words in rows.items():
        said = refusal(data=data)
        assert words in said, said
        assert said.startswith("data: ")
        with pytest.raises(SettingsError, match="^dataset: "):
            check(PrepareSettings(dataset=data))
    assert "lacks split.csv" in refusal(data=f"{tmp_path}/lacking")
    assert "is not a run folder" in refusal(data=f"{tmp_path}/pretrain")
    for name, value in {"quality": 90, "channels": 3, "tile": 64, "pattern": "*.jpg", "train_ratio": 1.0, "seed": 1,
                        "split": "random", "labels": "none", "short_side": 8}.items():  # fmt: skip
        for dataset in (f"{one},{two}", str(one)):
            with pytest.raises(
                SettingsError, match=f"^{name}: .* (cannot change prepared folders|leave pattern empty)"
            ):
                check(PrepareSettings(dataset=dataset, **{name: value}))


def test_the_same_images_twice_and_a_union_in_itself(sets, tmp_path):
    one, two = sets
    unite(tmp_path / "both", one, two)
    with pytest.raises(ValueError, match="hold the same images .* name them once"):
        unite(tmp_path / "more", tmp_path / "both", one)
    with pytest.raises(ValueError, match="is one of the folders in dataset"):
        unite(tmp_path / "both", tmp_path / "both")
    three = make(tmp_path / "three", 7000)
    nested = unite(tmp_path / "nested", three, tmp_path / "both")
    assert nested["images"] == 16 + 16 + 20
    data = Shards(tmp_path / "nested")
    assert data.classes[:2] == ["both/one/a", "both/one/b"]
    assert all(data.read(i, verify=True) for i in range(len(data)))
    before = prepared.fingerprint(tmp_path / "both")
    made_of = json.loads((tmp_path / "both" / "union.json").read_text())
    made_of["members"][0] |= {"folder": ".", "fingerprint": before}
    (tmp_path / "both" / "union.json").write_text(json.dumps(made_of))
    with pytest.raises(ValueError, match="holds itself"):
        Shards(tmp_path / "nested")


def test_members_that_change_or_go(sets, tmp_path):
    one, two = copy(sets[0], tmp_path / "a" / "one"), copy(sets[1], tmp_path / "a" / "two")
    both = tmp_path / "a" / "both"
    unite(both, one, two)
    before, source = Shards(both, "test").read(0), listing.signature(f"{one},{two}")
    (tmp_path / "a").rename(tmp_path / "b")  # all of them moved: nothing is lost
    one, two, both = (tmp_path / "b" / path.name for path in (one, two, both))
    assert Shards(both, "test").read(0, verify=True) == before
    check(PretrainSettings(data=str(both), global_batch=8))

    edit(one, "split.csv", lambda rows: [row.update(split="test") for row in rows][:0])
    assert listing.signature(f"{one},{two}").split()[0] != source.split()[0]
    for fails in (lambda: Shards(both), lambda: check(PretrainSettings(data=str(both), global_batch=8))):
        with pytest.raises(ValueError, match="the set 'one' of the union in .* has changed"):
            fails()
    shutil.rmtree(one)
    with pytest.raises(ValueError, match="the set 'one' of the union in .* is no longer in"):
        Shards(both)


def test_a_member_that_goes_while_it_is_read(sets, tmp_path):
    one, two = copy(sets[0], tmp_path / "one"), sets[1]
    unite(tmp_path / "both", one, two)
    data = Shards(tmp_path / "both", "train")
    shutil.rmtree(one)
    with pytest.raises(ValueError, match="one/./..jpg in .* cannot be read: .*No such file"):
        data.decode(0)
    assert data.decode(len(data) - 1).shape[0] == 3, "the other set is still there"


def test_thousands_of_refused_files_in_a_row(sets, tmp_path):
    """A block of rows without an image, in a member and in a preparation of its own."""
    one = copy(sets[0], tmp_path / "one")
    refused = [dict.fromkeys(ROW, "") | {"name": f"a/bad {k}.jpg", "reason": "damaged"} for k in range(5000)]
    edit(one, "shards/000000.csv", lambda rows: rows.__setitem__(slice(0, 0), refused))
    summary = unite(tmp_path / "both", one, sets[1])
    assert (summary["images"], summary["refused"]) == (36, 5000)
    assert summary["sets"][0]["mean"] == pytest.approx(unite(tmp_path / "as before", *sets)["sets"][0]["mean"])


def test_two_hundred_sets(sets, tmp_path):
    first = copy(sets[0], tmp_path / "set", "index.csv", "split.csv", "statistics.json", "shards")
    folders = [shutil.copytree(first, tmp_path / f"set{k}") for k in range(200)]
    summary = unite(tmp_path / "all", *folders)
    assert (summary["images"], summary["duplicates"], summary["leaks"]) == (3200, 3184, 0)
    data = Shards(tmp_path / "all")
    assert all(data.read(i, verify=True) for i in range(0, 3200, 16)), "no more files are open than a process may"
    assert len({row["set"] for row in summary["sets"]}) == 200


def test_overlap_of_two_folders(sets, tmp_path):
    one, two = sets
    found = overlap.between(one, two)
    assert found["exact"] + sorted(found["near"]) == Shards(one, "test").names[:4]
    assert not any(overlap.between(two, one).values())
    assert not any(overlap.between(one, one).values())


def test_a_list_as_data_is_one_run_that_is_made_once(sets, tmp_path, monkeypatch):
    """02 with data=a,b prepares the union, or takes the one that is there, until a member changes."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))
    one, two = copy(sets[0], tmp_path / "one"), sets[1]
    made = []

    def in_this_process(preparation):
        run = Run(preparation.folder())
        if run.status != "finished":
            made.append(preparation.dataset)
            source = {"source": listing.signature(preparation.dataset)}
            run.folder.mkdir(parents=True)
            files.write_json(run.folder / "settings.json",
                             {"job": "prepare", "asked": preparation.asked(), "resolved": source})  # fmt: skip
            summary = prepare(run.folder, preparation.dataset)[0]
            files.write_json(run.folder / "summary.json", {"status": "finished"} | summary)
        return run

    monkeypatch.setattr(launch, "launch_quietly", in_this_process)
    first = launch._resolved(PretrainSettings(data=f"{one},{two}", ranks=1, global_batch=8), 1)
    again = launch._resolved(PretrainSettings(data=f"{two}, {one}/", ranks=1, global_batch=8), 1)
    assert first.data == again.data
    assert first.data_fingerprint == again.data_fingerprint == prepared.fingerprint(expanded(first.data))
    assert len(made) == 1
    assert len(Shards(first.data, "train")) + len(Shards(first.data, "test")) == 36 - 4
    edit(one, "split.csv", lambda rows: [row.update(split="test") for row in rows][:0])
    with pytest.raises(SettingsError, match="has changed since .* was made of it"):
        launch._resolved(PretrainSettings(data=f"{one},{two}", ranks=1, global_batch=8), 1)


def test_somebody_elses_index_and_shards_are_no_prepared_folder(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "index.csv").write_text("key,shard\n1,a.tar\n")
    (tmp_path / "shards" / "a.png").write_bytes(encode(picture(1)))
    assert not prepared.is_prepared(tmp_path)
    assert listing.find(tmp_path).kind == "folder"
    (tmp_path / "index.csv").write_bytes(bytes(range(128, 256)))
    assert not prepared.is_prepared(tmp_path)
