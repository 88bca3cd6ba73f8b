"""`make verify`: a table of claims, made anew and compared; what is outside is named, and the others are checked."""

import math
import os
import re
import subprocess

import pytest

from geofm_lib import cli
from geofm_lib.catalog import artifact
from geofm_lib.catalog.datasets import DATASETS
from geofm_lib.paper import verify as verifying
from geofm_lib.paper.verify import CHECKS, verify

CLAIMS = artifact.claims()
HEAD = "number,claim,how,run,check,expected,tolerance,unit,minutes,cores,gb\n"
ROW = "1,Half,measured,geofm run 02,half,0.5,0.1,GiB,1,2,4\n"


@pytest.fixture
def table(tmp_path):
    """(rows as text) -> the claims in them."""

    def read(*rows):
        (tmp_path / "artifact.csv").write_text(HEAD + "".join(rows))
        return artifact.claims(tmp_path / "artifact.csv")

    return read


def test_every_check_has_a_claim_and_they_take_less_than_half_an_hour():
    assert {each.check for each in CLAIMS if each.check} == set(CHECKS)
    assert sum(float(each.minutes.split()[0]) for each in CLAIMS if each.check) < 20
    assert {each.how for each in CLAIMS} == set(artifact.HOW)


def test_the_page_has_the_table_and_the_terms_of_every_data_set(root, capsys):
    page = (root / "ARTIFACT.md").read_text()
    assert artifact.markdown(CLAIMS) in page, "copy what `geofm verify --list` prints between its marks"
    assert cli.main(["verify", "--list"]) == 0
    assert capsys.readouterr().out.strip() in page
    for card in DATASETS.values():
        terms = "MIT; contains Copernicus" if card.name == "eurosat" else card.terms
        assert terms in page, card.name
    for number, claim in enumerate(CLAIMS, 1):
        target = re.fullmatch(r"make (\S+)", claim.run)
        assert not target or re.search(rf"^{target[1]}:", (root / "Makefile").read_text(), re.M), number
    for link in re.findall(r"\]\(([^):#]+)\)", page):
        assert (root / link).exists(), link


def test_what_is_outside_is_named_with_all_its_numbers_and_the_others_are_checked(table, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("GEOFM_DATA", "/somewhere")
    rows = [
        ROW,
        "2,Off,counted,x,off,4,0,,1,2,4\n",
        "3,Bad,counted,x,bad,1,9,,1,2,4\n",
        "4,Nan,counted,x,nan,1,9,,1,2,4\n",
    ]
    seen, said = [], []

    def half(place):
        seen.append((os.environ["GEOFM_RUNS"], os.environ.get("GEOFM_DATA")))
        return 0.45, "of one"

    def bad(place):
        raise RuntimeError("no such\nnumber")

    checks = {"half": half, "off": lambda place: (4.001, "here"), "bad": bad, "nan": lambda place: (math.nan, "")}
    outcomes = verify(table(*rows), said.append, checks)
    assert [each.held for each in outcomes] == [True, False, False, False]
    text = "\n".join(said)
    assert "claim 1: holds, expected 0.5 ± 0.1 GiB, found 0.45: of one" in text
    assert "claim 2: OUTSIDE, expected exactly 4, found 4.001: here" in text
    assert "claim 3: FAILED, expected 1 ± 9, found nothing: RuntimeError: no such number" in text
    assert "claims 2, 3, 4 of 4 did not hold" in text
    ((folder, data),) = seen
    assert folder.startswith(f"{tmp_path}/runs/verify-")
    assert data is None, "what the user's shell names changes no claim"
    assert f"kept in {folder}" in text
    assert verify(table(ROW), said.append, {"half": half})[0].held
    assert "claim 1 holds" in said[-1]
    assert len(list((tmp_path / "runs").iterdir())) == 1, "what held leaves nothing"


def test_a_tolerance_that_is_broken_on_purpose_fails_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path))
    (number,) = (str(each.number) for each in CLAIMS if each.check == "step_flops")
    assert cli.main(["verify", number]) == 0
    assert f"claim {number} holds" in capsys.readouterr().out
    text = artifact.FILE.read_text()
    (tmp_path / "broken.csv").write_text(text.replace(",step_flops,4.534,0.0005,", ",step_flops,4.6,0.0005,"))
    broken = artifact.claims(tmp_path / "broken.csv")
    monkeypatch.setattr(artifact, "claims", lambda: broken)
    assert cli.main(["verify", number]) == 1
    out = capsys.readouterr().out
    assert f"claim {number}: OUTSIDE, expected 4.6 ± 0.0005 TFLOP, found 4.53409" in out
    assert f"claim {number} of 1 did not hold" in out.replace("claims", "claim")


@pytest.mark.parametrize("name", ["step_flops", "fewest_gpus", "blind_coverage", "blind_error", "blind_choices"])
def test_what_takes_no_time_holds(name):
    (claim,) = (each for each in CLAIMS if each.check == name)
    found, said = CHECKS[name](None)
    assert claim.holds(found), said


BAD = {
    (ROW.replace(",half,", ",,"), "1"): "Claim 1 is not checked by this command; it needs: geofm run 02.",
    (ROW, "2"): "There is no claim '2'; those that are checked are 1.",
    (ROW, "one"): "There is no claim 'one'; those that are checked are 1.",
}


def test_a_number_too_large_is_told_of_the_claims_that_are_not_checked():
    with pytest.raises(ValueError, match="those that are checked are 1 to 17; 18 to 26 are not: they take longer"):
        artifact.chosen("27", CLAIMS)


@pytest.mark.parametrize("row, words", BAD)
def test_a_claim_that_is_none_is_one_sentence(table, row, words):
    with pytest.raises(ValueError) as refused:
        artifact.chosen(words, table(row))
    assert str(refused.value) == BAD[row, words]


ODD = {
    ROW.replace("0.1", "-1"): "it must be 0 or more",
    ROW.replace("0.1", "nan"): "it must be 0 or more",
    ROW.replace("0.1", "inf"): "it must be 0 or more",
    "": "has no claims",
    ROW.replace("measured", "guessed"): "use one of measured, simulated, predicted, counted",
    ROW.replace("0.5", ""): "has a check and no expected value",
    ROW.replace("0.5", "half"): "row 2: expected must be a number; 'half' cannot be read",
    ROW.replace("1,2,4", "soon,2,4"): "takes 'soon'; begin with a number of minutes",
    ROW.replace("1,2,4", ",2,4"): "begin with a number of minutes",
    ROW.replace("1,Half", "1.5,Half"): "number must be a whole number",
    ROW.replace("1,Half", ",Half"): "number must be a whole number",
    ROW.replace(",4\n", "\n"): "row 2, has 10 cells, and the header 11",
    ROW.replace(",4\n", ",4,5\n"): "row 2, has 12 cells, and the header 11",
    ROW.replace("Half", '"Half'): "cannot be read as CSV",
    ROW.replace("1,Half", "2,Half"): "numbered from 1",
}


@pytest.mark.parametrize("row", ODD)
def test_a_table_that_cannot_be_used_is_one_sentence(table, row):
    with pytest.raises(ValueError, match=ODD[row]):
        table(row)


FILES = {
    "a binary file": (b"\x00\xff\xfe", "artifact.csv is no table of claims: it cannot be read as CSV in UTF-8"),
    "nothing": (b"", "its first line must name the columns"),
    "no header": (ROW.encode(), "its first line must name the columns number, claim"),
    "a column too few": (HEAD.replace(",minutes", "").encode(), "minutes is missing"),
    "a column too many": (HEAD.replace("gb", "gb,colour").encode(), "has a column 'colour' that no claim has"),
    "a column twice": (
        HEAD.replace("gb", "gb,unit").encode(),
        "has a column 'unit' that no claim has, or has it twice",
    ),
}


@pytest.mark.parametrize("raw, said", FILES.values(), ids=FILES)
def test_a_file_that_is_no_table_is_one_sentence(tmp_path, raw, said):
    (tmp_path / "artifact.csv").write_bytes(raw)
    with pytest.raises(ValueError, match=re.escape(said)):
        artifact.claims(tmp_path / "artifact.csv")
    with pytest.raises(ValueError, match="none.csv cannot be read: No such file"):
        artifact.claims(tmp_path / "none.csv")


def test_a_check_that_is_none_is_refused_before_anything_is_run(table, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "runs"))
    rows = table(ROW.replace(",half,", ",step_flosp,"))
    with pytest.raises(ValueError, match="claim 1 has a check 'step_flosp', which is none; did you mean 'step_flops'?"):
        verify(rows, print)
    assert not (tmp_path / "runs").exists()


def test_claims_may_be_a_range():
    assert [each.number for each in artifact.chosen("2 13-15", CLAIMS)] == [2, 13, 14, 15]
    with pytest.raises(ValueError, match="'15-13' names no claim; give the smaller number first"):
        artifact.chosen("15-13", CLAIMS)
    with pytest.raises(ValueError, match="Claim 18 is not checked by this command"):
        artifact.chosen("17-18", CLAIMS)


def test_a_place_where_nothing_can_be_written_is_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path / "file" / "runs"))
    assert cli.main(["verify", "2"]) == 2
    assert capsys.readouterr().err.startswith("Nothing was verified: ")


def test_make_hands_the_claims_on(root):
    shown = subprocess.run(["make", "-n", "-C", str(root), "verify", "CLAIMS=3 5"], capture_output=True, text=True)
    assert "-m geofm_lib verify 3 5\n" in shown.stdout


def test_a_command_that_fails_says_which_and_with_what(tmp_path):
    place = verifying.Place(tmp_path)
    with pytest.raises(RuntimeError, match="geofm status 99 ended with code 2: there is no run '99'"):
        place.command("status", "99")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_all_short_claims_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path))
    assert cli.main(["verify"]) == 0, capsys.readouterr().out
