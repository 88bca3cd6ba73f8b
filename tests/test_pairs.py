"""Pairs of dates in 01: the table is read, pairs and groups stay on one side, and what makes no pair is told."""

import csv
import os
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import top_k_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import BallTree

from geofm_lib import files
from geofm_lib.catalog.readouts import ACCURACY
from geofm_lib.data import shards
from geofm_lib.data.places import Places
from geofm_lib.data.sources import archives, listing, pairs, prepared
from geofm_lib.data.split import Split, decide
from geofm_lib.figures import probe as figures
from geofm_lib.figures import probe_details as details
from geofm_lib.jobs import prepare_pairs, probe
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import retrieval
from geofm_lib.runs.run import Run
from geofm_lib.settings import PrepareSettings, ProbeSettings, SettingsError
from tests.support.preparations import summarised

PLACES = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 places on two dates in 8 cells, 3 places seen once, and tables of them."""
    top, random = tmp_path_factory.mktemp("pairs") / "set", np.random.default_rng(0)
    for date in ("before", "after"):
        (top / date).mkdir(parents=True)
        for place in range(PLACES + 3 * (date == "after")):
            pixels = random.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(top / date / f"{place}.png")
    rows = [(f"p{n}", f"c{n // 3}", f"before/{n}.png", f"after/{n}.png") for n in range(PLACES)]
    write(top / "pairs.csv", ("place", "cell_5km", "before", "after"), rows)
    write(top / "odd.csv", ("x", "y", "z"), [row[1:] for row in rows])
    write(top / "plain.csv", ("before", "after"), [row[2:] for row in rows])
    faults = [("p0", "c0", "before/0.png", "after/99.png"), ("p1", "c0", "before/1.png", "before/1.png"), rows[0]]
    write(top / "faults.csv", ("place", "cell", "before", "after"), rows + faults)
    write(top / "none.csv", ("place", "cell", "before", "after"), faults[:1])
    return top


def write(file, header, rows):
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.fixture(scope="module")
def with_pairs(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "with"
    return run, summarised(run, folder, {"pairs": "pairs.csv", "labels": "none"})


def test_pairs_are_numbers_within_a_side_and_no_cell_stands_on_two(folder, with_pairs):
    run, summary = with_pairs
    assert summary["pairs"].keys() == {"train", "test"}
    assert sum(summary["pairs"].values()) == PLACES
    assert summary["split_by"] == "column cell_5km of pairs.csv"
    sides, cells = {}, {}
    for side in ("train", "test"):
        images = shards.Shards(run, side)
        found = pairs.of_side(run, side)
        for first, second in found.tolist():
            one, other = images.names[first], images.names[second]
            assert (Path(one).stem, Path(one).parent.name, Path(other).parent.name) == (
                Path(other).stem,
                "before",
                "after",
            )
            cells.setdefault(int(Path(one).stem) // 3, set()).add(side)
        sides[side] = len(found)
    assert sides == summary["pairs"]
    assert len(cells) == 8
    assert all(len(each) == 1 for each in cells.values())
    assert summary["val"] == 3, "what is in no cell may lie beside a test image"
    assert not any("pairs.csv" in each for each in summary["warnings"]), "a table that is used is not told as unused"
    assert summary["unused"] == {".csv": {"a table or text": 4}}


def test_a_draw_of_the_train_side_keeps_the_pairs_whose_images_are_both_drawn(with_pairs):
    run, _ = with_pairs
    images = shards.Shards(run, "train")
    whole = images.names
    every = {(whole[a], whole[b]) for a, b in pairs.of_side(run, "train")}
    images.draw(len(whole) * 3 // 4, 0)
    drawn = {(images.names[a], images.names[b]) for a, b in pairs.of_side(run, "train", images.drawn)}
    assert drawn == {each for each in every if set(each) <= set(images.names)}
    assert 0 < len(drawn) < len(every)


def test_without_pairs_everything_is_as_it_was_and_with_other_pairs_it_is_another_set(folder, with_pairs, tmp_path):
    asked = {"dataset": str(folder), "labels": "none"}
    assert PrepareSettings(**asked).name() == PrepareSettings(**asked, pairs="").name()
    assert PrepareSettings(**asked).name() != PrepareSettings(**asked, pairs="pairs.csv").name()
    without = summarised(tmp_path / "without", folder, {"labels": "none"})
    assert "pairs" not in without
    assert not (tmp_path / "without" / "pairs.csv").exists()
    run, summary = with_pairs
    (run / "pairs.csv").rename(run / "aside.csv")
    assert prepared.fingerprint(run) != summary["fingerprint"]
    (run / "aside.csv").rename(run / "pairs.csv")
    assert prepared.fingerprint(run) == summary["fingerprint"]
    with pytest.raises(
        ValueError, match=r"has no pairs of dates \(no pairs.csv\); prepare the images again with pairs"
    ):
        pairs.of_side(tmp_path / "without", "train")


def test_a_union_keeps_the_pairs_of_its_members_under_their_new_numbers(folder, with_pairs, tmp_path):
    run, summary = with_pairs
    other = tmp_path / "other"
    write_images(other, 6, seed=5)
    summarised(tmp_path / "plain", other, {})
    both = tmp_path / "both"
    found = summarised(both, f"{tmp_path / 'plain'},{run}", {})
    assert found["pairs"] == summary["pairs"]
    for side in ("train", "test"):
        names = [shards.Shards(place, side).names for place in (run, both)]
        pairs_of = [
            {tuple(own[i].rpartition("with/")[2] for i in row) for row in pairs.of_side(place, side)}
            for place, own in zip((run, both), names, strict=True)
        ]
        assert pairs_of[0] == pairs_of[1]


def write_images(top, count, seed):
    random = np.random.default_rng(seed)
    top.mkdir()
    for number in range(count):
        Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(top / f"x{number}.png")


def test_a_table_without_groups_keeps_each_pair_together(folder, tmp_path):
    summary = summarised(tmp_path / "run", folder, {"pairs": "plain.csv", "labels": "none"})
    assert summary["split_by"] == "pair of plain.csv"
    assert sum(summary["pairs"].values()) == PLACES


def test_columns_can_be_named_and_faults_are_counted_in_one_sentence(folder, tmp_path):
    source = listing.find(str(folder))
    names = list(archives.names(source))
    found = pairs.read("odd.csv:first=y,second=z,group=x", source, names)
    assert (len(found.rows), found.by, found.told()) == (PLACES, "x", [])
    (told,) = summarised(tmp_path / "run", folder, {"pairs": "faults.csv", "labels": "none"})["warnings"][-1:]
    assert told == (
        "3 rows of 'faults.csv' make no pair: 1 name an image that is not there (such as 'after/99.png'), 1 name one "
        "image twice (such as 'before/1.png'), 1 repeat a pair (such as 'before/0.png and after/0.png')"
    )


def test_a_pair_on_two_sides_of_a_given_split_is_left_out_and_told():
    rows = [pairs.Pair(0, 1, "a", ""), pairs.Pair(2, 3, "b", "")]
    found = pairs.Pairs("t.csv", rows=rows)
    names = ["a1", "a2", "b1", "b2"]
    assert pairs.one_side(found, ["train", "test", "train", "train"], names) == rows[1:]
    assert found.told() == ["1 row of 't.csv' make no pair: 1 stand on two sides of the split (such as 'a1 and a2')"]


def test_a_pair_beside_a_tested_place_is_kept_apart_with_its_partner():
    """Places along a street, 60 m from each other, of which the border of a cell cuts off the last two."""
    names = [f"{date}/{lon:.6f}_30.0.png" for lon in np.arange(6) * 60 / 96_486 for date in ("before", "after")]
    rows = [pairs.Pair(k, k + 1, str(k), "") for k in range(0, 12, 2)]
    where, nowhere = Places("{date}/{lon}_{lat}.png"), Places()
    for name in names:
        where.add(SimpleNamespace(name=name, geo=""))
        nowhere.add(SimpleNamespace(name=name, geo=""))
    split = Split(["train"] * 8 + ["test"] * 4, "column cell of t.csv", [])
    prepare_pairs.apart(pairs.Pairs("t.csv", rows=rows), split, where)
    assert split.sides == ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    assert split.warnings == [
        "2 training images lie within 100 m of a test image, across the border of a group: they are kept apart (val)"
    ]
    split = Split(["train"] * 11 + ["test"], "column cell of t.csv", [])
    prepare_pairs.apart(pairs.Pairs("t.csv", rows=rows), split, nowhere)
    assert split.sides == ["train"] * 10 + ["val", "test"], "of places that nobody knows the partner alone moves"
    given = Split(["train"] * 11 + ["test"], "given: t.csv", [])
    prepare_pairs.apart(pairs.Pairs("t.csv", rows=rows), given, where)
    assert given.sides == ["train"] * 11 + ["test"], "a given split stays as it is"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("gone.csv", "pairs: there is no table 'gone.csv', neither here nor in "),
        ("odd.csv", "pairs: no column of 'odd.csv' names the first image of a pair (it has x, y, z); say pairs='odd"),
        ("odd.csv:first=q,second=z", "pairs: 'odd.csv' has no column 'q' for first; it has x, y, z"),
        ("pairs.csv:third=a", "pairs: 'pairs.csv:third=a' names none of first, second, place, group"),
        ("pairs.csv:first=a,third=b", "pairs: 'third=b' must be first=COLUMN, second=COLUMN"),
        ("none.csv", "pairs: no row of 'none.csv' is a pair of images that are there; 1 row"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_meant_is_one_sentence(folder, setting, words):
    source = listing.find(str(folder))
    with pytest.raises(ValueError, match="^pairs: ") as error:
        pairs.read(setting, source, list(archives.names(source)))
    assert str(error.value).startswith(words)
    if setting != "none.csv":
        with pytest.raises(ValueError, match="^pairs: "):
            pairs.glance(setting, source)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"split": "random"}, "pairs: split=random would put two dates of a place on two sides"),
        ({"dataset": "scenes"}, "pairs: a table names images, and the drawn scenes have no names in it"),
        ({"tile": 64}, "pairs: a table names images, and tiles of scenes have no names in it"),
    ],
)
def test_settings_that_cannot_have_pairs(settings, words):
    with pytest.raises(SettingsError, match=words):
        PrepareSettings(**({"dataset": "x.tar", "pairs": "pairs.csv"} | settings))


def test_recall_is_scikit_learns_and_that_of_a_loop():
    random = np.random.default_rng(0)
    features = random.normal(size=(80, 12)).astype(np.float32)
    couples = np.stack([random.permutation(40), 40 + random.permutation(40)], 1)
    features[couples[:, 1]] += 0.7 * features[couples[:, 0]]
    image, rank = retrieval.ranks(features, couples)
    nearness = cosine_similarity(features)
    for own, other in ((0, 1), (1, 0)):
        scores = nearness[np.ix_(couples[:, own], couples[:, other])]
        found = rank[np.searchsorted(image[40 * own : 40 * own + 40], np.sort(couples[:, own])) + 40 * own]
        for k in (1, 3, 10):
            theirs = top_k_accuracy_score(np.arange(40), scores, k=k)
            assert retrieval.recall(found, k) == pytest.approx(theirs, abs=1e-6)
            assert 0 < theirs < 1
    several = np.array([[0, 2], [0, 3], [1, 4]])
    _, rank = retrieval.ranks(features, several)
    one, other = nearness[0, [2, 3]].max(), nearness[0, 4]
    assert rank[0] == (other >= one), "its own second partner is in nobody's way"
    assert set(retrieval.ranks(np.ones((6, 3)), np.array([[0, 3], [1, 4], [2, 5]]))[1]) == {2}, "alike finds nothing"


def test_places_are_sought_on_their_other_date_without_labels(with_pairs, tmp_path):
    run, _ = with_pairs
    alone = {"rank": 0, "world_size": 1, "is_main": True, "device": torch.device("cpu"), "barrier": lambda: None}
    context = SimpleNamespace(**alone, broadcast=lambda v: v, gather=lambda v: [v])
    settings = ProbeSettings(data=str(run), encoder="random", protocol="dates", image_size=16, model="ViT-Atto",
                             probe_seeds=2, readouts="mean", attention="fused", linear="matmul")  # fmt: skip
    (tmp_path / "probe").mkdir()
    found = probe.run(settings, context, Folder(tmp_path / "probe"))
    rows = files.read_csv(tmp_path / "probe" / "accuracy.csv")
    assert tuple(rows[0]) == ACCURACY
    assert {(row["model"], row["objective"]) for row in rows} == {
        ("ViT-Atto", "untrained"), ("histograms", "none"), ("random convolutions", "none")
    }  # fmt: skip
    assert Counter(row["metric"] for row in rows) == {"recall1": 4, "recall10": 4}
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
    assert found["places"] == found["test_pairs"] == 12
    assert found["chance"] == pytest.approx(100 / 12)
    assert found["answer"].startswith(
        "Frozen untrained features find a place on its other date among 12 places (4 groups): "
    )
    files.write_json(tmp_path / "probe" / "summary.json", found)
    asked = {"job": "probe", "asked": settings.asked(), "resolved": {}}
    files.write_json(tmp_path / "probe" / "settings.json", asked)
    shown = Run(tmp_path / "probe")
    assert "Recall at 1 in percent (nearest by cosine among 12 places" in figures.gains(shown).alt
    assert "over groups of test pairs" in figures.gains(shown).alt
    for show in (figures.verdict, figures.doubts, figures.numbers, figures.accuracy, figures.curves, details.labels,
                 details.blocks, details.classes, details.confusion, details.confused, details.retrieval,
                 details.features_map, details.ranks):  # fmt: skip
        assert repr(show(shown))
    with pytest.raises(ValueError, match="has no pairs of dates on its val side"):
        pairs.check(run, "val")


def test_no_place_date_or_neighbour_of_harvey_stands_on_two_sides():
    """The split of 09's grid on the real list: no pair, cell or place within 100 m on the train and the test side."""
    if not os.environ.get("GEOFM_TEST_DATA"):
        pytest.skip("GEOFM_TEST_DATA names no folder of real images")
    source = listing.find(Path(os.environ["GEOFM_TEST_DATA"]) / "harvey.tar")
    names = [name for name in archives.names(source) if name.endswith(".jpeg")]
    found, where, nothing = pairs.read("pairs.csv", source, names), Places("{date}/{lon}_{lat}.jpeg"), [""] * len(names)
    for name in names:
        where.add(SimpleNamespace(name=name, geo=""))
    cells = found.groups(names)
    split = decide("auto", names, nothing, nothing, cells, {}, 0.5, 0, scenes_by="cell")
    degrees = np.array([[float(part) for part in Path(name).stem.split("_")[::-1]] for name in names])

    def nearest():
        side = np.array(split.sides)
        tree = BallTree(np.radians(degrees[side == "test"]), metric="haversine")
        return 6_371_008.8 * tree.query(np.radians(degrees[side == "train"]))[0].min()

    assert nearest() < 100, "cells alone leave neighbours across their borders"
    before = Counter(split.sides)
    prepare_pairs.apart(found, split, where)
    assert nearest() > 99.5
    after = Counter(split.sides)
    assert after["test"] == before["test"]
    assert before["train"] - after["train"] == 646
    sides = {}
    for row in found.rows:
        assert split.sides[row.first] == split.sides[row.second]
        sides.setdefault(row.group, set()).add(split.sides[row.first])
    assert not any({"train", "test"} <= each for each in sides.values())
    assert pairs.one_side(found, split.sides, names) == found.rows


def test_harveys_pairs_all_stand_on_one_side():
    if not os.environ.get("GEOFM_TEST_DATA"):
        pytest.skip("GEOFM_TEST_DATA names no folder of real images")
    source = listing.find(Path(os.environ["GEOFM_TEST_DATA"]) / "harvey.tar")
    names = list(archives.names(source))
    found = pairs.read("pairs.csv", source, names)
    assert (len(found.rows), found.by, found.told()) == (7_087, "cell_5km", [])
    groups = found.groups(names)
    assert len(set(groups) - {""}) == 83
    assert Counter(each == "" for each in groups)[True] == 21_322 - 2 * 7_087
    with tarfile.open(source.path) as archive:
        rows = archive.extractfile("harvey/pairs.csv").read().decode().splitlines()[1:]
    at = {name: group for name, group in zip(names, groups, strict=True)}
    for _, cell, before, after in (row.split(",") for row in rows):
        assert at["harvey/" + before] == at["harvey/" + after] == cell


def damage(folder, sides, cells):
    """The sides on which each cell has images of either class. cells: an image's name -> its cell."""
    found = {}
    for side in sides:
        images = shards.Shards(folder, side, labelled=True)
        assert images.classes == ["after", "before"]
        for name in filter(cells.__contains__, images.names):
            found.setdefault(cells[name], set()).add(side)
    return found


def test_damage_is_the_folder_and_cells_keep_to_their_side(folder, tmp_path):
    """before and after are dates, and no classes by themselves; a pattern says that they are meant."""
    summary = summarised(tmp_path / "run", folder, {"pairs": "pairs.csv", "pattern": "{label}/*.png"})
    assert (list(summary["classes"]), summary["split_by"]) == (["after", "before"], "column cell_5km of pairs.csv")
    cells = {f"{date}/{place}.png": place // 3 for date in ("before", "after") for place in range(PLACES)}
    found = damage(tmp_path / "run", ("train", "test"), {f"{folder.name}/{n}": c for n, c in cells.items()} | cells)
    assert len(found) == 8
    assert all(len(each) == 1 for each in found.values())
    assert set().union(*found.values()) == {"train", "test"}


def test_harveys_damage_is_split_by_cell(tmp_path):
    """Its 40 smallest cells, the images that are in none beside them."""
    if not os.environ.get("GEOFM_TEST_DATA"):
        pytest.skip("GEOFM_TEST_DATA names no folder of real images")
    with tarfile.open(Path(os.environ["GEOFM_TEST_DATA"]) / "harvey.tar") as archive:
        rows = archive.extractfile("harvey/pairs.csv").read().decode().splitlines()
        few = [cell for cell, _ in Counter(row.split(",")[1] for row in rows[1:]).most_common()[-40:]]
        rows = rows[:1] + [row for row in rows[1:] if row.split(",")[1] in few]
        cells = {f"harvey/{name}": row.split(",")[1] for row in rows[1:] for name in row.split(",")[2:]}
        others = [name for name in archive.getnames() if name.endswith("eg") and name not in cells][:50]
        archive.extractall(tmp_path, [archive.getmember(name) for name in [*cells, *others]], filter="data")
    (tmp_path / "harvey" / "pairs.csv").write_text("\n".join(rows) + "\n")
    summary = summarised(tmp_path / "run", tmp_path / "harvey", {"pairs": "pairs.csv", "pattern": "{label}/*.jpeg"})
    assert summary["split_by"] == "column cell_5km of pairs.csv"
    found = damage(tmp_path / "run", ("train", "val", "test"), {n.removeprefix("harvey/"): c for n, c in cells.items()})
    assert len(found) == 40
    assert all(not {"train", "test"} <= each for each in found.values())
    assert set().union(*found.values()) >= {"train", "test"}
