"""Tables and published lists: every form gives what it says, and every hostile one is one sentence."""

import gzip
import json
import time
import zipfile

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from geofm_lib import files
from geofm_lib.data import shards
from geofm_lib.data.sources import given, listing
from tests.support.cases import given_split, labels_in_files
from tests.support.pictures import as_archive, class_folders
from tests.support.preparations import prepared

NAMES = [f"set/{label}/{label}_{n}.png" for label in ("forest", "water", "crop") for n in range(4)]
TRUE = [name.split("/")[1] for name in NAMES]
SIDES = (["train", "train", "val", "test"]) * 3


@pytest.fixture
def read(tmp_path):
    """Write some files beside images of names that do not exist, and read the setting `labels`."""

    def read(setting="labels.csv", names=NAMES, **contents):
        for name, content in contents.items():
            path = tmp_path / name.replace("__", "/").replace("_csv", ".csv").replace("_txt", ".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return given.read(setting, listing.Source("set", tmp_path, "folder"), names)

    return read


def rows(header, *columns, comma=","):
    lines = [header] if header else []
    return "\n".join(lines + [comma.join(map(str, row)) for row in zip(*columns, strict=True)]) + "\n"


ENDS = [name.rpartition("/")[2] for name in NAMES]
STEMS = [name[:-4] for name in ENDS]
FORMS = {
    "csv": rows("image,label", ENDS, TRUE),
    "semicolon": rows("Bild;Klasse".replace("Bild", "Filename").replace("Klasse", "Class Name"), ENDS, TRUE, comma=";"),
    "tab": rows("path\tlabel", ENDS, TRUE, comma="\t"),
    "pipe": rows("path|label", ENDS, TRUE, comma="|"),
    "bom": b"\xef\xbb\xbf" + rows("image,label", ENDS, TRUE).encode(),
    "utf-16": rows("image,label", ENDS, TRUE).encode("utf-16"),
    "windows lines": rows("image,label", ENDS, TRUE).replace("\n", "\r\n"),
    "quotes": rows('"image","label"', [f'"{each}"' for each in ENDS], [f'"{each}"' for each in TRUE]),
    "blank lines": rows("image,label", ENDS, TRUE).replace("\n", "\n\n"),
    "no header": rows("", ENDS, TRUE),
    "full paths": rows("path,label", NAMES, TRUE),
    "paths of another machine": rows("path,label", [f"/home/me/data/{name}" for name in NAMES], TRUE),
    "windows paths": rows("path,label", [f"C:\\data\\{name}".replace("/", "\\") for name in NAMES], TRUE),
    "below the top": rows("path,label", [name.removeprefix("set/") for name in NAMES], TRUE),
    "no suffix": rows("id,label", STEMS, TRUE),
    "capitals": rows("file,label", [end.upper() for end in ENDS], TRUE),
    "addresses": rows("url,label", [f"https://host/data/{name}?raw=1" for name in NAMES], TRUE),
    "another suffix": rows("file,label", [f"{stem}.tif" for stem in STEMS], TRUE),
    "more columns": rows("index,date,image,cloud,label", range(12), range(12), ENDS, range(12), TRUE),
    "no usual name": rows("a,b,Label", range(12), ENDS, TRUE),
    "patterns": "path,label\nset/forest/*,forest\nwater_?.png,water\ncrop/*.png,crop\n",
    "one hot": rows("IMAGE\\LABEL\tcrop\tforest\twater", STEMS,
                    *[[int(label == each) for label in TRUE] for each in ("crop", "forest", "water")], comma="\t"),
    "numbers after the folder": rows("image,label", ENDS, TRUE),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table(read, form):
    found = read(labels_csv=FORMS[form])
    assert found.labels == TRUE
    assert found.sides == found.groups == []
    assert found.warnings == []
    assert all(found.listed)


def test_parquet_and_json(tmp_path):
    source = listing.Source("set", tmp_path, "folder")
    parquet.write_table(
        pyarrow.table({"image": ENDS, "labels": [[each] for each in TRUE]}), tmp_path / "labels.parquet"
    )
    lines = [json.dumps({"file": end, "label": label}) for end, label in zip(ENDS, TRUE, strict=True)]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    (tmp_path / "labels.json").write_text("[" + ",".join(lines) + "]")
    (tmp_path / "map.json").write_text(json.dumps(dict(zip(ENDS, TRUE, strict=True))))
    for name in ("labels.parquet", "labels.jsonl", "labels.json", "map.json"):
        assert given.read(name, source, NAMES).labels == TRUE


SEVERAL = ["a", "a|b", "b|c", "a|b|c"] * 3
CELLS = {
    "semicolons": ("labels", [each.replace("|", ";") for each in SEVERAL]),
    "bars": ("label", SEVERAL),
    "commas": ("labels", [f'"{each.replace("|", ", ")}"' for each in SEVERAL]),
    "json": ("labels", ['"[' + ", ".join(f'""{part}""' for part in each.split("|")) + ']"' for each in SEVERAL]),
    "python": ("label", ['"[' + ", ".join(f"'{part}'" for part in each.split("|")) + ']"' for each in SEVERAL]),
    "brackets": ("label", [f"[{each.replace('|', ' ')}]" for each in SEVERAL]),
    "tags": ("tags", [each.replace("|", " ") for each in SEVERAL]),
}


@pytest.mark.parametrize("form", CELLS)
def test_several_labels_in_a_cell(read, form):
    word, column = CELLS[form]
    assert read(labels_csv=rows(f"image,{word}", ENDS, column)).labels == SEVERAL


def test_several_labels_in_rows_and_columns(read):
    pairs = [(end, part) for end, label in zip(ENDS, SEVERAL, strict=True) for part in label.split("|")]
    assert read(labels_csv=rows("image,label", *zip(*pairs, strict=True))).labels == SEVERAL
    bits = [[int(part in label) for label in SEVERAL] for part in "abc"]
    found = read(labels_csv=rows("image,a,b,c", ENDS, *bits))
    assert found.labels == SEVERAL
    assert found.words == {"label": "3 columns of labels.csv"}
    assert read("labels.csv:label=a+c").labels == ["a", "a", "c", "a|c"] * 3


def test_sides_and_groups(read):
    table = rows(
        "image,label,Subset,cell", ENDS, TRUE, ["training", "TRAIN", "validation", "test"] * 3, [1, 1, 2, 3] * 3
    )
    found = read(labels_csv=table)
    assert (found.sides, found.groups) == (SIDES, ["1", "1", "2", "3"] * 3)
    assert found.words == {
        "label": "column label of labels.csv",
        "side": "column Subset of labels.csv",
        "group": "column cell of labels.csv",
    }
    flags = rows(
        "image,is_train,is_val,is_test", ENDS, *[[int(s == side) for s in SIDES] for side in ("train", "val", "test")]
    )
    assert read(labels_csv=flags).sides == SIDES


@pytest.mark.parametrize(
    ("column", "of_no", "of_yes"),
    [("is_test", "train", "test"), ("is_train", "test", "train"), ("valid", "train", "val"), ("isVal", "train", "val")],
)
def test_one_column_of_yes_and_no_is_a_whole_split(read, column, of_no, of_yes):
    said = [[True, False, False][k % 3] for k in range(12)]
    found = read(labels_csv=rows(f"image,label,{column}", ENDS, TRUE, said))
    assert found.sides == [of_yes if yes else of_no for yes in said]


def test_what_no_column_of_sides_says(read):
    two = rows(
        "image,label,is_val,is_test", ENDS, TRUE, [k % 3 == 0 for k in range(12)], [k % 3 == 1 for k in range(12)]
    )
    assert read(labels_csv=two).sides == ["val", "test", "train"] * 4
    open_ones = rows("image,label,is_test", ENDS, TRUE, ["True", "", "False"] * 4)
    assert read(labels_csv=open_ones).sides == ["test", "", "train"] * 4, "an empty cell says nothing"
    folds = read(labels_csv=rows("image,label,fold", ENDS, TRUE, [k % 5 for k in range(12)]))
    assert any("column 'fold' of 'labels.csv' is not used" in each for each in folds.warnings)


def test_lists_by_an_absolute_pattern_are_those_by_a_relative_one(read, tmp_path, monkeypatch):
    lists = tmp_path / "lists"
    lists.mkdir()
    for side, part in (("train", ENDS[:8]), ("test", ENDS[8:])):
        (lists / f"set-{side}.txt").write_text("\n".join(part))
    monkeypatch.chdir(tmp_path)
    for text in (f"{lists}/*.txt", f"{lists}/set-*.txt", f"{tmp_path}/**/*.txt"):
        assert read(text).sides == ["train"] * 8 + ["test"] * 4


def test_columns_named_by_the_setting(read):
    table = rows("when,after,before,C,S,cell_km", range(6), ENDS[:6], ENDS[6:], TRUE[:6], SIDES[:6], range(6))
    found = read("labels.csv:path=before+after,label=C,side=S,group=cell_km", labels_csv=table)
    assert found.labels == TRUE[:6] * 2
    assert found.sides == SIDES[:6] * 2
    assert found.groups == list("012345") * 2
    table = rows("place,cell_5km,before,after", range(6), "aabbcc", ENDS[6:], ENDS[:6])
    assert read("labels.csv:group=cell_5km", labels_csv=table).groups == list("aabbcc") * 2, (
        "columns by what is in them"
    )


SCORES = [f"0,{n}5" for n in (1, 2, 3)] * 4
UNKNOWN = {
    "semicolons": ("Dateiname;Klasse;Güte", (ENDS, TRUE, SCORES), "Dateiname", "Klasse"),
    "two columns": ("Dateiname;Klasse", (ENDS, TRUE), "Dateiname", "Klasse"),
    "numbers beside": ("filename;biome;score", (ENDS, TRUE, range(12)), "filename", "biome"),
    "dates beside": ("chemin;classe;jour", (ENDS, TRUE, ["2020-01-02"] * 12), "chemin", "classe"),
}


@pytest.mark.parametrize("form", UNKNOWN)
def test_the_only_column_that_can_be_a_label_is_taken_and_told(read, form):
    header, columns, path, label = UNKNOWN[form]
    found = read(labels_csv=rows(header, *columns, comma=";"))
    assert found.labels == TRUE
    assert found.words == {"label": f"column {label} of labels.csv"}
    assert found.warnings == [
        f"column '{label}' of 'labels.csv' is taken for the labels, since no other can be: "
        f"labels='labels.csv:path={path},label=...' takes another"
    ]


SILENT = {
    "two that can be": ("Datei,Klasse,Land", (ENDS, TRUE, ["de", "fr"] * 6), "labels='labels.csv:path=Datei,label=Klasse'"),
    "a number": ("Datei,Klasse", (ENDS, range(12)), "labels='labels.csv:path=Datei,label=Klasse'"),
    "each its own": ("Datei,Text", (ENDS, STEMS), "labels='labels.csv:path=Datei,label=Text'"),
    "paths alone": ("", (ENDS,), "says neither labels, sides nor groups; to take only the images that it lists, with their paths, set dataset='"),
    "paths and a header": ("Datei", (ENDS,), "add one beside the paths"),
    "an empty label": ("image,label", (ENDS, [""] * 12), "neither labels, sides nor groups: column label of labels.csv"),
}  # fmt: skip


@pytest.mark.parametrize("form", SILENT)
def test_a_named_table_that_says_nothing_stops(read, form):
    header, columns, said = SILENT[form]
    with pytest.raises(ValueError) as refused:
        read(labels_csv=rows(header, *columns))
    assert said in str(refused.value)
    assert str(refused.value).startswith("labels: ")


def test_a_column_beside_a_side_is_told_but_not_taken(read):
    found = read(labels_csv=rows("image,split,country", ENDS, SIDES, ["de", "fr"] * 6))
    assert (found.labels, found.sides) == ([], SIDES)
    told = "column 'country' of 'labels.csv' is not used: labels='labels.csv:path=image,label=country' does"
    assert found.warnings == [told]


def test_paths_are_known_where_few_rows_name_an_image(read):
    """As where a pattern keeps a part of the images, or their names are not known yet."""
    count = 400
    table = rows("place,cell_5km,before,after", range(count), [n // 9 for n in range(count)],
                 [f"before/{n}.jpg" for n in range(count)], [f"after/{n}.jpg" for n in range(count)])  # fmt: skip
    names = [f"set/{when}/{n}.jpg" for when in ("before", "after") for n in range(390, 400)]
    found = read("pairs.csv:group=cell_5km", names, **{"pairs.csv": table})
    assert found.groups == [str(n // 9) for n in range(390, 400)] * 2


def test_a_row_without_a_1_is_none_of_them_and_no_row_is_no_label(read):
    bits = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, ""]]
    found = read(labels_csv=rows("image,a,b,c", ENDS[:4], *bits))
    assert found.labels == ["a|b", "a|c", "|", ""] + [""] * 8
    found = read(labels_csv=rows("image,labels", ENDS[:3], ["\"['a','b']\"", "[]", ""]))
    assert found.labels[:3] == ["a|b", "|", ""]
    found = read(labels_csv=rows("image,a,b,c", ENDS[:4], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]))
    assert found.labels[:4] == ["a", "b", "c", ""], "of one label each, none is no label"


# Lists as published: (name of the file, its lines). The names of the files say the sides.
def published(line):
    return {
        side: "".join(line(i) + "\n" for i, s in enumerate(SIDES) if s == side) for side in ("train", "val", "test")
    }


LISTS = {
    "torchgeo eurosat-train.txt": ("eurosat-{}.txt", published(lambda i: f"{STEMS[i]}.jpg"), [""]),
    "torchgeo uc_merced-train.txt": ("uc_merced-{}.txt", published(lambda i: f"{STEMS[i]}.tif"), [""]),
    "resisc45-train.txt": ("resisc45-{}.txt", published(lambda i: ENDS[i]), [""]),
    "rvsa file, class, number": (
        "{}_labels_55_0.txt",
        published(lambda i: f"{TRUE[i]}/{ENDS[i]} {TRUE[i]} {i // 4}"),
        TRUE,
    ),
    "file and number": ("{}.txt", published(lambda i: f"{ENDS[i]} {i // 4}"), [str(i // 4) for i in range(12)]),
    "aid: a path a line": ("AID_{}.txt", published(lambda i: f"{TRUE[i]}/{ENDS[i]}"), [""]),
    "dota: ids": ("{}set.txt", published(lambda i: STEMS[i]), [""]),
    "csv": ("{}.csv", {s: "image,label\n" + t for s, t in published(lambda i: f"{ENDS[i]},{TRUE[i]}").items()}, TRUE),
}


@pytest.mark.parametrize("form", LISTS)
def test_published_lists_are_reproduced_exactly(tmp_path, form):
    name, contents, expected = LISTS[form]
    (tmp_path / "lists").mkdir()
    for side, text in contents.items():
        (tmp_path / "lists" / name.format(side)).write_text(text)
    found = given.read(f"lists/{name.format('*')}", listing.Source("set", tmp_path, "folder"), NAMES)
    assert found.sides == SIDES
    assert found.labels == (expected if len(expected) > 1 else [])
    assert found.warnings == []


def test_a_sample_of_stacked_bands_is_meant_by_its_folder_or_its_name(read):
    table = "patch,label\nS2_1,a\nS2_2,b\n"
    for names in (
        ["S2_1/S2_1_bands.tif", "S2_2/S2_2_bands.tif"],
        ["S2_1_bands.tif", "S2_2_bands.tif"],
        ["S2_1/bands.tif", "S2_2/bands.tif"],
    ):
        assert read(names=names, labels_csv=table).labels == ["a", "b"]


# Hostile: (setting, {file: content}, what the one sentence says).
GOOD = rows("image,label", ENDS, TRUE)
HOSTILE = {
    "no such file": ("nothing.csv", {}, "'nothing.csv' is neither here nor in"),
    "a folder": ("lists", {"lists__a_txt": "x"}, "is a folder; name its files, as in labels='lists/*.txt'"),
    "pattern of nothing": ("lists/*.txt", {}, "'lists/*.txt' is neither here nor in"),
    "only commas": (",,", {}, "names no file"),
    "unknown option": ("labels.csv:kind=image", {"labels_csv": GOOD}, "'kind' of 'kind=image' is none of path, label"),
    "option twice": ("labels.csv:path=image,path=image", {"labels_csv": GOOD}, "path is given twice"),
    "empty option": ("labels.csv:path=", {"labels_csv": GOOD}, "names no column"),
    "two sides": ("labels.csv:side=a+b", {"labels_csv": GOOD}, "side is one column, not 2"),
    "wrong column": ("labels.csv:label=lable", {"labels_csv": GOOD}, "no column 'lable' for label; did you mean 'label'"),
    "no such column": ("labels.csv:path=xyz", {"labels_csv": GOOD}, "no column 'xyz' for path; it has image, label"),
    "empty": ("labels.csv", {"labels_csv": ""}, "is empty"),
    "blank": ("labels.csv", {"labels_csv": " \n\n \n"}, "is empty"),
    "header only": ("labels.csv", {"labels_csv": "image,label\n"}, "none of the"),
    "binary": ("labels.csv", {"labels_csv": bytes(range(256)) * 20}, "is no text: it has bytes of 0"),
    "NUL late": ("labels.csv", {"labels_csv": GOOD.encode() * 90 + b"a\0b,c\n"}, "damaged: it has bytes of 0"),
    "NUL early": ("labels.csv", {"labels_csv": b"image,label\nforest_0.png,\0forest\n"}, "bytes of 0"),
    "excel": ("labels.csv", {"labels_csv": b"PK\3\4" + b"x" * 99}, "an Excel workbook or a zip; save it as CSV"),
    "old excel": ("labels.csv", {"labels_csv": b"\xd0\xcf\x11\xe0" + b"x" * 99}, "Excel workbook; save it as CSV"),
    "compressed": ("labels.csv", {"labels_csv": gzip.compress(GOOD.encode())}, "compressed; unpack it"),
    "array": ("labels.csv", {"labels_csv": b"\x93NUMPY\1\0" + b"x" * 99}, "a numpy array"),
    "damaged parquet": ("labels.csv", {"labels_csv": b"PAR1" + b"x" * 99}, "is damaged"),
    "broken json": ("labels.json", {"labels.json": '[{"path": "a.png", '}, "is no JSON that can be read"),
    "coco": ("labels.json", {"labels.json": '{"images": [], "annotations": []}'}, "boxes of objects (COCO)"),
    "json of numbers": ("labels.json", {"labels.json": "[1, 2, 3]"}, "must hold objects such as"),
    "deep json": ("labels.json", {"labels.json": "[" * 100_000}, "is no JSON that can be read"),
    "open quote": ("labels.csv", {"labels_csv": GOOD.replace("forest_2.png", '"forest_2.png')}, "a quote is not closed"),
    "stray quote": ("labels.csv", {"labels_csv": GOOD.replace("forest_2.png", '"forest"_2.png')}, "a quote is not closed"),
    "short row": ("labels.csv", {"labels_csv": GOOD + "forest_1.png\n"}, "has 1 cells in line 14, but 2"),
    "long row": ("labels.csv", {"labels_csv": GOOD + "forest_1.png,dense,forest\n"}, "has 3 cells in line 14, but 2"),
    "huge cell": ("labels.csv", {"labels_csv": GOOD + "forest_1.png," + "x" * 200_000 + "\n"}, "more than 131072 letters"),
    "long label": ("labels.csv", {"labels_csv": GOOD + "forest_1.png," + "x" * 2000 + "\n"}, "label of 2000 letters"),
    "one endless line": ("labels.csv", {"labels_csv": "x" * 300_000}, "a line of more than 131072 letters"),
    "no row fits": ("labels.csv", {"labels_csv": "image,label\na.png,x\nb.png,y\n"}, "they say 'a.png', an image is called"),
    "outside": ("labels.csv", {"labels_csv": "image,label\n../../etc/x.png,x\n../b.png,y\n"}, "none of the 2 rows"),
    "absolute": ("labels.csv", {"labels_csv": "image,label\n/etc/passwd,x\n/etc/hosts,y\n"}, "none of the 2 rows"),
    "numbers as paths": ("labels.csv", {"labels_csv": rows("image,label", range(12), TRUE)}, "they say '0'"),
    "no path column": ("labels.csv", {"labels_csv": rows("a,label", range(12), TRUE)}, "no column of 'labels.csv' names images"),
    "two labels": ("labels.csv", {"labels_csv": GOOD + "forest_1.png,crop\n"}, "is 'forest' in line 3 of 'labels.csv', and 'crop' in line 14"),
    "two sides of one image": (
        "labels.csv",
        {"labels_csv": rows("image,split", ENDS, SIDES) + "forest_0.png,test\n"},
        "has the side 'train' in line 2 of 'labels.csv', and 'test' in line 14",
    ),
    "two groups": ("labels.csv", {"labels_csv": "image,cell\nforest_0.png,1\nforest_0.png,2\n"}, "has the group '1' in line 2"),
    "in two lists": (
        "*.txt",
        {"train_txt": "forest_0.png\nforest_1.png\n", "test_txt": "forest_1.png\nforest_2.png\n"},
        "has the side 'test' in line 1 of 'test.txt', and 'train' in line 2 of 'train.txt'; an image has one: take it out of one of",
    ),
    "unknown side": ("labels.csv", {"labels_csv": "image,split\nforest_0.png,train\nforest_1.png,oops\n"}, "the side 'oops'"),
    "sides as numbers": ("labels.csv", {"labels_csv": rows("image,split", ENDS, [0, 1] * 6)}, "the side '0' in split"),
    "folds": ("labels.csv:side=fold", {"labels_csv": rows("image,fold", ENDS, [1, 2, 3] * 4)}, "the side '1' in fold"),
    "several groups": (
        "labels.csv",
        {"labels_csv": rows("image,place,cell_5km", ENDS, range(12), range(12))},
        "could say which images belong together; choose one: labels='labels.csv:group=cell_5km'",
    ),
    "header twice": ("labels.csv", {"labels_csv": rows("image,label,label", ENDS, TRUE, TRUE)}, "'label' 2 times"),
    "asked for twice": ("labels.csv:label=x", {"labels_csv": rows("image,x,x", ENDS, TRUE, TRUE)}, "'x' 2 times"),
    "two texts, no header": ("labels.csv", {"labels_csv": rows("", ENDS, TRUE, STEMS)}, "has no header, and 2 columns"),
    "measured values": (
        "labels.csv:label=biomass",
        {"labels_csv": rows("image,biomass", ENDS, [0.0, *(f"{1.37 * n:.2f}" for n in range(1, 12))])},
        "12 different numbers for 12 images, such as 1.37: measured values, and no classes; name another column",
    ),
    "measured with exponents": (
        "labels.csv",
        {"labels_csv": rows("image;label", ENDS, [f"{n}e-03" for n in range(12)]).replace(",", ";")},
        "measured values, and no classes",
    ),
    "every label its own": (
        "labels.csv",
        {"labels_csv": rows("image,label", [f"{n}.png" for n in range(99)], [f"x{n}" for n in range(99)])},
        "99 different values for 99 images, such as 'x0', so they are no classes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tables_are_one_sentence(read, tmp_path, case):
    setting, contents, said = HOSTILE[case]
    names = [f"{n}.png" for n in range(99)] if "every label" in case else NAMES
    with pytest.raises(ValueError) as refused:
        read(setting, names, **contents)
    sentence = str(refused.value)
    assert said in sentence
    assert sentence.startswith("labels: ")
    assert "\n" not in sentence
    assert len(sentence) < 400


def test_which_image_is_meant_must_be_clear(read):
    with pytest.raises(ValueError, match=r"line 2 of 'labels.csv' says '1.png', which several images end with"):
        read(names=["a/1.png", "b/1.png"], labels_csv="path,label\n1.png,a\n1.png,b\n")


def test_a_table_that_an_archive_has_twice_is_asked_for(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("x/labels.csv", "y/labels.csv"):
            archive.writestr(name, GOOD)
    source = listing.Source("set", tmp_path / "set.zip", "zip")
    with pytest.raises(ValueError, match="could be 'x/labels.csv' or 'y/labels.csv'; give its path"):
        given.read("labels.csv", source, NAMES)
    assert given.read("y/labels.csv", source, NAMES).labels == TRUE


def test_what_is_odd_but_clear_is_taken_and_told(read):
    found = read(labels_csv=GOOD + "gone.png,forest\n")
    assert found.labels == TRUE
    assert found.warnings == ["1 of 13 rows of 'labels.csv' name no image here, such as 'gone.png'"]
    found = read(labels_csv=rows("image,label", ENDS[:9], TRUE[:9]))
    assert found.labels == TRUE[:8] + ["crop", "", "", ""]
    assert found.warnings == ["3 images stand in no row of 'labels.csv', such as 'set/crop/crop_1.png'"]
    found = read(labels_csv=rows("image,label", ENDS, ["nan", "", "NA", "None"] + TRUE[4:]))
    assert found.labels == [""] * 4 + TRUE[4:]
    assert found.warnings == [
        "4 rows of 'labels.csv' have no label (1 'nan', 1 'NA', 1 'None': read as missing, as pandas does; give it "
        "another name if it is a class)"
    ]
    assert read(labels_csv=rows("image,label", ENDS, ["none"] * 4 + TRUE[4:])).labels[:4] == ["none"] * 4
    found = read(labels_csv=rows("image,label", ENDS, ["forest"] * 12))
    assert found.warnings == ["all labels of 'labels.csv' are 'forest': one class cannot be told from another"]
    assert read(labels_csv=GOOD + GOOD.partition("\n")[2]).labels == TRUE, "the same row twice"
    assert read(labels_csv=rows("image,label", ENDS, [f"{i // 4}.0" for i in range(12)])).labels[::4] == ["0", "1", "2"]
    latin = rows("image,label", ENDS, ["forêt"] * 6 + TRUE[6:]).encode("latin-1")
    assert read(labels_csv=latin).labels[0] == "forêt"
    assert read(labels_csv=rows("image,label,fold", ENDS, TRUE, [1, 2, 3] * 4)).sides == [], "folds are no sides"


@pytest.mark.parametrize("count", [100_000, pytest.param(2_000_000, marks=pytest.mark.long)])
def test_a_table_of_two_million_rows_takes_seconds(tmp_path, count):
    names = [f"set/{n % 50:02d}/{n:07d}.jpg" for n in range(0, count, 7)]
    with open(tmp_path / "labels.csv", "w") as file:
        file.write("image,label,split\n")
        file.writelines(f"{n:07d}.jpg,{n % 50:02d},{'train' if n % 3 else 'test'}\n" for n in range(count))
    started = time.process_time()
    found = given.read("labels.csv", listing.Source("set", tmp_path, "folder"), names)
    assert time.process_time() - started < 20
    assert found.labels == [name[4:6] for name in names]
    assert found.sides == ["train" if n % 3 else "test" for n in range(0, count, 7)]


# Whole preparations.
def sides_of(folder):
    return {row["name"]: row["split"] for row in files.read_csv(folder / "split.csv")}


def test_given_splits_are_used_and_named(tmp_path):
    given_split.make(tmp_path / "in")
    counts = {"train": 36, "val": 6, "test": 12}
    by = {
        "folders": "given: folders train, val, test",
        "long_names": "given: folders training, validation, testing",
        "lists": "given: test.txt, train.txt, val.txt",
    }
    for name, words in by.items():
        summary, _, _ = prepared(tmp_path / name, tmp_path / "in" / name, workers=1)
        assert {side: summary[side] for side in counts} == counts
        assert summary["split_by"] == words
        assert summary["classes"] == ({} if name == "long_names" else dict.fromkeys(("crop", "forest", "water"), 18))
        sides = sides_of(tmp_path / name)
        assert all(counts.keys() >= {side} for side in sides.values())
        for image, side in sides.items():
            number = int(image.rpartition("_")[2][:-4])
            assert side == ("train" if number < 12 else "val" if number < 14 else "test")
    assert summary["labels_from"].startswith("folders")
    assert len(shards.Shards(tmp_path / "folders", "val")) == 6
    summary, _, _ = prepared(tmp_path / "again", tmp_path / "in" / "folders", workers=1, split="random")
    assert (summary["val"], summary["split_by"]) == (0, "random")


def test_tables_of_the_cases(tmp_path):
    labels_in_files.make(tmp_path / "in")
    summary, _, _ = prepared(tmp_path / "csv", tmp_path / "in" / "csv", workers=1)
    assert summary["classes"] == {"crop": 6, "forest": 6, "water": 6}, "the one table that says labels is used"
    assert (summary["labels_from"], summary["warnings"]) == ("column label of labels.csv", [])
    (tmp_path / "in" / "csv" / "other.csv").write_bytes((tmp_path / "in" / "csv" / "labels.csv").read_bytes())
    summary, _, _ = prepared(tmp_path / "two", tmp_path / "in" / "csv", workers=1)
    assert summary["classes"] == {}, "of two it is not for us to say which"
    assert summary["unused"] == {".csv": {"a table or text": 2}}
    assert ["beside the images has their label" in each for each in summary["warnings"]] == [True, True]
    (tmp_path / "in" / "csv" / "other.csv").unlink()
    summary, _, _ = prepared(tmp_path / "csv", tmp_path / "in" / "csv", workers=1, labels="none")
    assert (summary["classes"], summary["unused"]) == ({}, {".csv": {"a table or text": 1}})
    made = (tmp_path / "csv" / "shards" / "000000.tar").stat().st_mtime_ns
    summary, _, _ = prepared(tmp_path / "csv", tmp_path / "in" / "csv", workers=1, labels="labels.csv")
    assert (tmp_path / "csv" / "shards" / "000000.tar").stat().st_mtime_ns == made, "labels do not pack again"
    assert summary["classes"] == {"crop": 6, "forest": 6, "water": 6}
    assert (summary["labels_from"], summary["unused"]) == ("column label of labels.csv", {})
    summary, _, _ = prepared(tmp_path / "several", tmp_path / "in" / "multilabel", workers=1, labels="labels.csv")
    assert summary["several_labels"]
    assert summary["classes"] == {"crop": 10, "forest": 10, "water": 10}
    summary, _, _ = prepared(tmp_path / "names", tmp_path / "in" / "names", workers=1)
    assert "pattern='{label}_{n}.png' takes it" in summary["warnings"][0]
    summary, _, _ = prepared(tmp_path / "names", tmp_path / "in" / "names", workers=1, pattern="{label}_{n}.png")
    assert summary["classes"] == {"crop": 6, "forest": 6, "water": 6}


def test_boxes_of_objects_beside_the_images_are_told(tmp_path):
    source = class_folders(tmp_path / "set", ("images",))
    for name in ("instances.json", "else.json"):
        (source / name).write_text('{"info": {}, "images": [{"id": 1, "file_name": "0.jpg"}], "annotations": []}')
    (told,) = prepared(tmp_path / "run", source, workers=1)[0]["warnings"]
    assert told.startswith("'else.json' and 1 more beside the images: boxes of objects (COCO), not a label for each")


def test_a_single_table_with_a_side_in_its_name_is_told(tmp_path):
    source = class_folders(tmp_path / "set")
    names = [path.relative_to(source).as_posix() for path in source.rglob("*.jpg")]
    (source / "train_labels.csv").write_text(rows("id,label", names, names))
    for n in range(100):  # as detection sets have them
        (source / f"{n}.txt").write_text(f"{names[0]}\n{names[1]}\n")
    summary, _, _ = prepared(tmp_path / "run", source)
    told = "'train_labels.csv' beside the images has their label, and is not used: labels='train_labels.csv' does"
    assert summary["warnings"] == [told]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_a_table_inside_an_archive_is_named_as_it_lies_there(tmp_path, suffix):
    source = class_folders(tmp_path / "set", ("before", "after"), each=6)
    pairs = [(f"before/before {n}.jpg", f"after/after {n}.jpg", n // 2) for n in range(5)]
    (source / "pairs.csv").write_text(rows("before,after,cell", *zip(*pairs, strict=True)))
    path = as_archive(source, tmp_path / f"packed{suffix}")
    summary, _, _ = prepared(tmp_path / "run", path, labels="pairs.csv:path=before+after,group=cell", train_ratio=0.6)
    sides = sides_of(tmp_path / "run")
    assert len(sides) == 12
    assert summary["split_by"] == "column cell of pairs.csv"
    of = {name: {side for image, side in sides.items() if image.endswith(name)} for pair in pairs for name in pair[:2]}
    cells = {pair[2]: of[pair[0]] | of[pair[1]] for pair in pairs}
    assert all(len(each) == 1 for each in cells.values())
    assert {side for each in cells.values() for side in each} == {"train", "test"}
    unlisted = {side for image, side in sides.items() if image.endswith(" 5.jpg")}
    assert unlisted == {"val"}, "what lies beside who knows which image is neither trained nor tested on"
    assert any("2 images belong to no group" in told for told in summary["warnings"])


def test_names_that_only_refused_previews_share_are_clear(tmp_path):
    source = class_folders(tmp_path / "set", ("a", "b"), each=4)
    names = sorted(path for path in source.rglob("*.jpg") if path.name[0] != ".")
    Image.new("I;16", (20, 20)).save(names[0].with_suffix(".tif"))  # refused, since most images are RGB
    (source / "labels.csv").write_text(rows("id,label", [path.stem for path in names], list("xyxyxyxy")))
    summary, refused, _ = prepared(tmp_path / "run", source, labels="labels.csv")
    assert (summary["images"], len(refused)) == (8, 1)
    assert summary["classes"] == {"x": 4, "y": 4}


def test_a_list_without_header_is_read_beside_a_pattern(tmp_path):
    source = class_folders(tmp_path / "set", ("a", "b"), each=4)
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("[ab]*.jpg"))
    (source / "all.txt").write_text("".join(f"{name} {n % 2}\n" for n, name in enumerate(names)))
    summary, _, _ = prepared(tmp_path / "run", source, labels="all.txt", pattern="*.jpg")
    assert (summary["classes"], summary["labels_from"]) == ({"0": 4, "1": 4}, "all.txt")


def test_bad_labels_stop_before_anything_is_packed(tmp_path):
    source = class_folders(tmp_path / "set")
    (source / "labels.csv").write_text("image,label\nnothing.jpg,x\n")
    with pytest.raises(ValueError, match="none of the 1 rows"):
        prepared(tmp_path / "run", source, labels="labels.csv")
    assert not (tmp_path / "run" / "shards").exists()
