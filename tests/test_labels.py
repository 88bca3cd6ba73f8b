"""Labels and sides by folders: what is a class, what is a side, and what only looks like a class."""

import itertools
import os
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from geofm_lib.data.sources import file_names, folders, labels, listing, sides
from geofm_lib.data.sources.pattern import parse
from tests.support.pictures import as_archive, noise
from tests.support.preparations import prepared


def tree(text, each=3):
    """Image names in folders, `each` in each; "{a,b}" and "{0..9}" in a folder stand for several."""
    return [f"{folder}/{folder.replace('/', '_')}_x{i}.jpg" for folder in spread(text) for i in range(each)]


def spread(text):
    """The texts that one with braces stands for, in the order of its words."""
    found = []
    for pattern in text.split():
        parts = []
        for part in pattern.replace("}", "{").split("{"):
            first, dots, last = part.partition("..")
            parts.append([str(n) for n in range(int(first), int(last) + 1)] if dots else part.split(","))
        found += map("".join, itertools.product(*parts))
    return found


def classes(names):
    return sorted(set(folders.read(names).labels) - {""})


REAL = [  # (folders, images in each, the classes)
    ("{forest,river}", 1, "forest river"),
    ("set/{forest,river}", 5, "forest river"),
    ("{a,b}", 4, "a b"),
    ("train/water/{lake,river} train/land/{road,rail}", 3, "lake rail river road"),  # Million-AID
    ("2750/{AnnualCrop,Forest}", 3, "AnnualCrop Forest"),
    ("{0..9}", 30, "0 1 2 3 4 5 6 7 8 9"),
    ("LCZ_{1..17}", 2, " ".join(sorted(f"LCZ_{n}" for n in range(1, 18)))),
    ("class{1..4}", 2, "class1 class2 class3 class4"),
    ("n0144076{4..9}", 2, " ".join(f"n0144076{n}" for n in range(4, 10))),
    ("{B-1,B-29,Boeing,C-130,F-16}", 3, "B-1 B-29 Boeing C-130 F-16"),  # MTARSI
    ("{2S1,BMP2,BTR60,T62,T72,ZSU_23_4}", 5, "2S1 BMP2 BTR60 T62 T72 ZSU_23_4"),  # MSTAR
    ("{aGrass,bField,cIndustry}", 3, "aGrass bField cIndustry"),
    ("{car,train,bus}", 2, "bus car train"),  # a train may be a vehicle
    ("{airport/airport,port/port,crop/crop}_{0..3}", 2, "airport crop port"),  # fMoW: the middle folder
    ("train/{airport/airport,port/port}_{0..3} val/{airport/airport,port/port}_{4..5}", 1, "airport port"),
    ("{forest,water}/{2019,2020}", 4, "forest water"),
    ("{forest,water}/201905{10..14}", 1, "forest water"),
    ("{forest,water}/S2A_MSIL2A_20170613T10103{1..4}", 12, "forest water"),
    ("{forest,water}/{B02,B03,B04}", 3, "forest water"),
    ("{damage,no_damage}", 50, "damage no_damage"),
]
NONE = [  # (folders, images in each, what they look like, what mends it)
    ("bigearthnet/S2A_MSIL2A_20170613T101031_{0..4}_{0..3}", 12, "numbered places", "labels='table.csv'"),
    ("{0000001,0000002,0000003}/{20200604T054639,20200904T054639}", 12, "dates", "labels="),  # SSL4EO
    ("x.SAFE/GRANULE/L2A_T30UYV_A032395_20230520T104624/IMG_DATA/{R10m,R20m,R60m}", 4, "resolutions", "pattern="),
    ("{images,masks}", 5, "images and masks", "pattern='images/**'"),
    ("{images,annotations}/{training,validation}", 5, "images and masks", "pattern='images/**'"),
    ("{train,val,test}/{image,label}", 5, "images and masks", "pattern='**/image/**'"),
    ("{train,train_labels,val,val_labels}", 5, "images and masks", "pattern='train/**'"),
    ("levir/{train,test}/{T1,T2,label}", 5, "images and masks", "pattern="),
    ("{before,after}", 5, "two dates of the same places", "pattern="),
    ("{pre,post}-disaster", 5, "two dates", "pattern="),
    ("{2017,2018,2019}", 40, "dates", "labels="),
    ("{2017-06,2018-07}", 40, "dates", "labels="),
    ("{spring,summer,autumn,winter}", 9, "dates", "labels="),
    ("{B02,B03,B04}", 9, "single bands", "{band}"),
    ("{red,green,blue,nir}", 9, "single bands", "{band}"),
    ("{s1,s2}", 9, "sensors", "pattern="),
    ("scene_{1..5}", 500, "numbered places", "labels="),
    ("austin{1..9}", 30, "numbered places", "labels="),
    ("top_potsdam_2_{10..14}", 9, "numbered places", "labels="),
    ("{32TQM,33UUP,T31UFS}", 9, "numbered places", "labels="),
    ("-95.06_29.{83..87}", 1, "numbered places", "labels="),
    ("000{1..5}", 8, "numbered places", "labels="),
    ("city{paris,lyon,rome,bonn,bern,oslo,kiel,ulm,wien,prag,riga}", 1, "places, most with one image", "labels="),
    ("ROIs1158_{spring,summer}/{s1,s2,lc}_{0..2}", 2, "numbered places", "labels="),  # SEN12MS
    ("{train,test}/{images,targets}", 4, "images and masks", "pattern='**/images/**'"),  # xBD
    ("train/{aachen,bochum,ulm} val/{munster,frankfurt}", 20, "no side has those of another", "labels="),
]


@pytest.mark.parametrize(("text", "each", "expected"), REAL, ids=[row[0][:40] for row in REAL])
def test_real_classes_are_never_mistaken(text, each, expected):
    assert classes(tree(text, each)) == sorted(expected.split())


@pytest.mark.parametrize(("text", "each", "look", "mends"), NONE, ids=[row[0][:40] for row in NONE])
def test_what_is_no_class_is_told_with_what_mends_it(text, each, look, mends):
    found = folders.read(tree(text, each))
    assert set(found.labels) == {""}
    (told,) = found.warnings
    assert look in told
    assert mends in told
    assert "labels=folders insists" in told
    insisting = folders.read(tree(text, each), insist=True)
    assert len(set(insisting.labels)) > 1 or "train_labels" in text
    assert not insisting.warnings


def test_a_folder_above_is_named_only_where_there_are_several():
    (told,) = folders.read(tree("{2021-01-15,2021-02-15,2021-03-15}")).warnings
    assert "{label}" not in told
    (told,) = folders.read(
        tree("img_1/{2021-01-15,2021-02-15} img_2/{2021-01-15,2021-03-15} img_3/2022-01-15")
    ).warnings
    assert "pattern='**/{label}/{place}/*' from the folder above" in told


def test_images_without_their_masks_are_no_class_that_is_alone():
    images, others = tree("img_dir/{train,val}"), tree("ann_dir/{train,val}")
    assert labels.one_class(labels.assign(images, [("", "", "")] * 6), images, others) == []
    alone = tree("set/forest")
    assert (
        "one class cannot be told"
        in labels.one_class(labels.assign(alone, [("", "", "")] * 3), alone, tree("set/sea"))[0]
    )


def test_files_of_the_same_names_are_pairs_but_running_numbers_are_not():
    stems = ["tile_10_31", "tile_11_31", "tile_14_90", "tile_10_90"]
    assert (
        "the same images several times"
        in folders.read([f"{f}/{s}.png" for f in ("x1z", "q7") for s in stems]).warnings[0]
    )
    assert classes([f"{folder}/{n}.png" for folder in ("forest", "river") for n in range(9)]) == ["forest", "river"]
    assert classes([f"{folder}/{s}{folder}.png" for folder in ("a", "b") for s in stems]) == ["a", "b"]
    assert classes([f"{folder}/{s}.png" for folder in ("A", "B") for s in stems]) == []


@pytest.mark.parametrize(
    ("text", "expected", "found_classes"),
    [
        ("{train,val,test}/{forest,river}", "train val test", "forest river"),
        ("set/{Training,Validation,Testing}/{forest,river}", "Training Validation Testing", "forest river"),
        ("{train2017,val2017}/{forest,river}", "train2017 val2017", "forest river"),
        ("{train_images,test_images}/{forest,river}", "train_images test_images", "forest river"),
        ("{forest,river}/{train,test}", "train test", "forest river"),
        ("{TrainSet,TestSet}", "TrainSet TestSet", ""),
        ("{train,dev,eval}/{forest,river}", "train dev eval", "forest river"),
        ("{train,test,extra}/{forest,river}", "train test", "forest river"),
        ("{train,val_seen,val_unseen}/{forest,river}", "", "forest river"),
        ("images/{train,val}/{forest,river}", "train val", "forest river"),
    ],
)
def test_sides_by_folders(text, expected, found_classes):
    names = tree(text)
    found = folders.read(names)
    assert sorted(set(found.labels) - {""}) == sorted(found_classes.split())
    if expected:
        assert found.sides_from == "folders " + ", ".join(expected.split())
        for name, side in zip(names, found.sides, strict=True):
            assert side == next(filter(None, map(sides.side_of, name.split("/")[:-1])), "")


def test_names_of_real_sets():
    if not os.environ.get("GEOFM_TEST_DATA"):
        pytest.skip("GEOFM_TEST_DATA names no folder of real images")
    counts = {}
    for each in ("ucm", "aid96", "nwpu2", "eurosat100_ms", "harvey", "dubai_seg"):
        with tarfile.open(Path(os.environ["GEOFM_TEST_DATA"]) / f"{each}.tar") as archive:
            counts[each] = len(classes([name for name in archive.getnames() if listing.is_image_name(name)]))
    assert list(counts.values()) == [21, 30, 2, 10, 0, 0]


def test_the_source_wins_over_folders_and_the_setting_over_both():
    names = ["forest/1.jpg", "river/2.jpg"]
    given = [("dry", "train", "s"), ("wet", "test", "")]
    assert labels.assign(names, given).labels == ["dry", "wet"]
    assert labels.assign(names, given, "folders").labels == ["forest", "river"]
    nothing = labels.assign(names, given, "none")
    assert (nothing.labels, nothing.sides, nothing.labels_from) == (["", ""], ["train", "test"], "")


def test_a_folder_with_a_file_a_band_is_no_class():
    names = [f"{place}/{band}.tif" for place in ("paris", "lyon") for band in ("B02", "B03", "B8A")]
    assert "samples with a file a band" in folders.read(names).warnings[0]
    assert classes(names) == []
    names = [f"{c}/{name}" for c in ("city", "town") for name in names]
    assert classes(names) == ["city", "town"]


def test_masks_beside_their_images_are_told():
    names = [f"train/{n}_{kind}" for n in range(9) for kind in ("sat.jpg", "mask.png")]
    (told,) = file_names.told(names, True)
    assert "'train/0_mask.png', look like masks, and became images: pattern='*.jpg' takes the images alone" in told
    names = [f"{n}.{kind}" for n in range(9) for kind in ("tif", "label.png")]
    assert "pattern='*.tif' takes the images alone" in file_names.told(names, True)[0]
    assert file_names.told([f"mask/{n}.png" for n in range(9)], True) == []


R = range(8, 13)  # numbers of one and of two digits
MASKS = {  # files -> the pattern that takes the images alone, "" where none can
    "{images,masks}/{8..12}.tif": "**/images/**",
    "set/{images,labels}/{8..12}.tif": "images/**",
    "{train,val}/{images,gt}/{8..12}.tif": "**/images/**",
    "{img,ann}_dir/{train,val}/{8..12}.png": "**/img_dir/**",
    "{8..12}/images/0.png {8..12}/masks/{1..3}.png": "**/images/**",
    "set/{JPEGImages,SegmentationClass}/{8..12}.png": "JPEGImages/**",
    "2_Ortho_RGB/{8..12}_RGB.tif 5_Labels/{8..12}_label.tif": "**/2_Ortho_RGB/**",  # Potsdam
    "leftImg8bit/ulm/u_{8..12}_leftImg8bit.png gtFine/ulm/u_{8..12}_gtFine_labelIds.png": "**/leftImg8bit/**",
    "{train,test}/{A,B,label}/{8..12}.png": "**/?/**",  # LEVIR
    "{train,val}/{8..12}.tiff {train,val}_labels/{8..12}.tif": "*.tiff",  # Massachusetts
    "{train,val}/{8..12}.tif {train,val}_labels/{8..12}.tif": "",
    "{8..12}_sat.jpg {8..12}_mask.png": "*.jpg",  # DeepGlobe
    "{8..12}_{sat,mask}.png": "*_sat.png",
    "{image,label}_{8..12}.png": "image_*",
    "{10..15}{,_gt}.tif": "??.tif",
    "area{8..12}{,_mask}.tif": "",
    "{8..12}.jpg {8..12}_mask_{0..2}.png": "*.jpg",
    "{8..12}/{image,mask}.tif": "*image.tif",
}


@pytest.mark.parametrize("form", MASKS)
def test_masks_among_images_stop_with_the_pattern_that_takes_the_images(form):
    names, text = spread(form), MASKS[form]
    with pytest.raises(ValueError, match="look like masks of images") as told:
        file_names.refuse_masks(names)
    assert (f"pattern='{text}' takes the images alone" if text else "move the masks out of the data set") in str(
        told.value
    )
    if text:
        found = [name for name in names if parse(text).match(name.removeprefix("set/"))]
        assert found == [name for name in names if not re.search("mask|[Ll]abel|gt|ann|Segm", name)]


@pytest.mark.parametrize(
    "names",
    [
        [f"{kind}/{kind}_{n}.jpg" for kind in ("with_mask", "without_mask") for n in R],  # classes of faces
        [f"{kind}/{n}.png" for kind in ("target", "background") for n in R],
        [f"mask/{n}.png" for n in R],
        [f"{folder}/{n}.png" for folder in ("forest", "river") for n in R] + ["forest/a_label.png"],
        *(tree(text, each) for text, each, _ in REAL),
    ],
    ids=lambda names: names[0],
)
def test_no_class_is_taken_for_masks(names):
    file_names.refuse_masks(names)


@pytest.mark.parametrize("form", ["set", "set.tar", "set.tar.gz", "set.zip"])
def test_a_set_with_masks_stops_and_the_pattern_that_is_named_works(tmp_path, form):
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        for n in R:
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            noise(n).save(tmp_path / "set" / kind / f"{n}.{suffix}")
    source = as_archive(tmp_path / "set", tmp_path / form) if "." in form else tmp_path / form
    with pytest.raises(ValueError, match="files such as '.*masks/10.png' look like masks") as told:
        prepared(tmp_path / "run", source, workers=1)
    assert not (tmp_path / "run" / "index.csv").exists()
    text = re.search("pattern='(.*?)' takes the images alone", str(told.value))[1]
    assert prepared(tmp_path / "images", source, workers=1, pattern=text)[0]["images"] == 5
    found = prepared(tmp_path / "all", source, workers=1, pattern="*")[0]
    assert found["images"] == 10 and "look like masks, and became images" in " ".join(found["warnings"])


def test_names_of_bands_and_labels_are_told_with_their_pattern():
    safe = [f"x.SAFE/G/IMG_DATA/R{m}m/T30_2023_{band}_{m}m.jp2" for m in (20, 10, 60) for band in ("B02", "B8A", "SCL")]
    for names, pattern in (
        (safe, "{id}_{band}_10m.jp2"),
        ([f"{p}/{p}_{b}.tif" for p in ("paris", "rom") for b in ("B02", "B03")], "{id}_{band}.tif"),
        ([f"{p}/{b}.tif" for p in ("paris", "rom") for b in ("red", "nir")], "{place}/{band}.tif"),
        ([f"{b}.tif" for b in ("VV", "VH")], "{band}.tif"),
        ([f"place{p}/T32_{d}_{b}.tif" for p in "01" for d in "12" for b in ("B2", "B3")], "{place}/{id}_{band}.tif"),
        ([f"set/p{p}/T32_{b}.tif" for p in "01" for b in ("B02", "B03")], "*/{place}/{id}_{band}.tif"),
        ([f"{c}/1_{b}.tif" for c in ("Forest", "River") for b in ("B02", "B03")], "{label}/{id}_{band}.tif"),
        (
            [f"{s}/p{p}/x/T32_{b}.tif" for s in ("train", "test") for p in "01" for b in ("B02", "B03")],
            "{side}/{place}/*/{id}_{band}.tif",
        ),
        ([f"{p}/T32_{b}.tif" for p in ("a", "b/c", "b/d") for b in ("B02", "B03")], "**/*_{band}.tif"),
        ([f"{p}/{b}.tif" for p in ("a", "b/c", "b/d") for b in ("red", "nir")], "**/{band}.tif"),
    ):
        with pytest.raises(ValueError, match=f"pattern='{re.escape(pattern)}' stacks those of a sample"):
            file_names.refuse_bands(names)
        parse(pattern)
    file_names.refuse_bands(["a_red.jpg", "b_red.jpg"])
    for names, how in (
        ([f"{label}_{n:03d}.png" for label in ("water", "crop") for n in range(3)], "pattern='{label}_{n}.png'"),
        ([f"{label} ({n}).jpg" for label in ("water", "crop") for n in range(3)], "pattern='{label} {n}.jpg'"),
        ([f"{label}{n:02d}.tif" for label in ("water", "crop") for n in range(3)], "a table (labels='table.csv')"),
    ):
        assert (
            f"looks like a label ('crop', 'water'), which is not used: {how} takes it"
            in file_names.told(names, False)[0]
        )
    for names in (
        [f"IMG_{n}.jpg" for n in range(9)],
        [f"scene_{n}_{m}.tif" for n in range(9) for m in range(9)],
        ["x.png"],
    ):
        assert file_names.told(names, False) == []


def test_numbered_places_within_classes_stay_on_one_side():
    found = folders.read([*tree("{airport/airport,port/port}_{0..3}", 2), "port/lone.jpg"])
    assert found.scenes[:3] == ["airport/airport_0", "airport/airport_0", "airport/airport_1"]
    assert (found.labels[-1], found.scenes[-1]) == ("port", "port/lone.jpg")
    assert found.scenes_from == "folder such as airport_0"
    assert folders.read(tree("{forest,water}/{2019,2020}")).scenes == [], "dates are no places"
    assert folders.read(tree("scene_{1..5}")).scenes == []
    names = tree("{airport/airport,port/port}_{0..3}")
    assert labels.assign(names, [("", "", "")] * len(names)).scenes[0] == "airport/airport_0"


def test_labels_that_vanish_are_told(tmp_path):
    for name in ("a", "b"):
        for n in range(6):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            noise(n).save(tmp_path / "set" / name / f"{n}.png")
    Image.new("L", (20, 20)).save(tmp_path / "set" / "x.png")
    lone = "only images of the class folder 'a' are left, so there are no labels: one class cannot be told from another"

    def told(run, **options):
        summary, _, _ = prepared(tmp_path / run, tmp_path / "set", workers=1, **options)
        return summary["labels_from"], summary["classes"], [each for each in summary["warnings"] if "one class" in each]

    assert told("pattern", pattern="a/**") == ("", {}, [lone])
    one = "all labels, from pattern, are 'a': one class cannot be told from another"
    assert told("label", pattern="{label}/?.png")[2] == []
    assert told("none", pattern="a/**", labels="none")[2] == []
    shutil.rmtree(tmp_path / "set" / "b")
    assert told("one folder")[2] == [], "photos in a folder are no class"
    assert told("one label", pattern="{label}/?.png") == ("pattern", {"a": 6}, [one])
    for n in range(3):
        (tmp_path / "set" / "b").mkdir(exist_ok=True)
        (tmp_path / "set" / "b" / f"{n}.png").write_bytes(b"damaged")
    assert told("refused") == ("", {}, [lone])


def test_a_class_whose_accents_are_stored_in_two_ways_is_one_class():
    folder_names = ("for\u00eat", "fore\u0302t", "eau")
    found = labels.assign([f"set/{name}/{i}.jpg" for name in folder_names for i in range(3)], [("", "", "")] * 9)
    assert found.labels == ["for\u00eat"] * 6 + ["eau"] * 3
    assert [words for words in found.warnings if words.startswith("2 spellings of class 'for\u00eat' look alike")]
