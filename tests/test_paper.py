"""The front page's verdicts: they follow from numbers, and every row that can have a number has one."""

import csv
import json
from fnmatch import fnmatchcase

import pytest

from geofm_lib.catalog import published
from geofm_lib.figures import claims as drawn
from geofm_lib.figures import ledger as shown
from geofm_lib.paper import blind, claims, ledger, performance, studies, verdicts
from geofm_lib.paper.verdicts import Answer
from geofm_lib.planning.conditions import TABLE_I
from geofm_lib.planning.planner import as_published
from geofm_lib.planning.weights import parameters
from geofm_lib.runs import results

TOY = {"C4"}  # measured on CPU ranks, where the paper has GPUs
WITHOUT_NUMBERS = {"T2", "T3", "G1", "G13", "G14", "G15", "G16"}  # Tables II and III, IO, power, loss and accuracies
STUDIED = {"C9", "C10"}  # not measured until three sizes of the study are in reports/accuracy.csv
EVIDENCE = {
    "larger_model": "ViT-Pico", "batch_per_gpu": 2,
    "ranks": 4, "device": "a CPU", "torch": "2", "fsdp1": "torch 2", "fsdp1_group_1_gradient_difference": 2.5,
    "fsdp1_group_2_gradient_difference": 0.0, "ours_group_1_gradient_difference": 0.0,
    "ours_group_2_gradient_difference": 0.0, "DDP_fp32_step_s": 0.3, "NO_SHARD_fp32_step_s": 0.4,
    "DDP_bf16_step_s": 0.5, "NO_SHARD_bf16_step_s": 0.6, "small_window_over_steady": 0.9,
    "larger_window_over_steady": 0.95,
}  # fmt: skip


def points(*pairs, cell=""):
    return [(cell, *pair) for pair in pairs]


@pytest.mark.parametrize(
    "found, verdict",
    [
        (points((100, 95), (200, 209), (400, 400)), "reproduced"),
        (points((100, 50), (200, 90), (400, 130)), "same ordering"),  # in order, far off
        (points((100, 200), (200, 100), (400, 400)), "differs"),  # two swapped
        (points((100, 101), (110, 100)), "differs"),  # near, and swapped
        (points((100, 105), (104, 100)), "reproduced"),  # swapped, too near each other to be in an order
        (points((100, 100), (110, 100)), "differs"),  # a tie is no order
        (points((100, 95), cell="a") + points((200, 90), cell="b"), "differs"),  # no pair, and far off
        (points((100, 95), cell="a") + points((200, 195), cell="b"), "reproduced"),  # of other cells: no pair
        ([], "not measured"),
    ],
)
def test_a_verdict_follows_from_the_numbers(found, verdict):
    assert verdicts.of_points(found) == verdict


def test_nine_pairs_in_ten_must_be_in_order():
    ladder = [(10.0 * 2**k, 10.0 * 2**k) for k in range(5)]  # 10 pairs
    swapped = [*ladder[:3], (ladder[3][0], ladder[4][1]), (ladder[4][0], ladder[3][1])]
    assert verdicts.order(points(*swapped)) == (9, 10)
    assert verdicts.of_points(points(*swapped)) == "reproduced"
    twice = [(ladder[0][0], ladder[1][1]), (ladder[1][0], ladder[0][1]), *swapped[2:]]
    assert verdicts.order(points(*twice)) == (8, 10)
    assert verdicts.of_points(points(*twice)) == "differs"


def test_table_i_is_reproduced_by_the_benchmark_network_only():
    benchmark = {name: parameters(name, "classify") / 1e6 for name in TABLE_I}
    plain = {name: parameters(name, "encoder") / 1e6 for name in TABLE_I}
    assert verdicts.of_counts(TABLE_I, benchmark) == "reproduced"
    assert verdicts.of_counts(TABLE_I, plain) == "same ordering"
    assert verdicts.of_counts(TABLE_I, {}) == "not measured"
    assert verdicts.of_counts({"a": 1, "b": 2}, {"a": 4.0, "b": 3.0}) == "differs"


def found(name):
    return {claim["id"]: each for claim, each in claims.answers(EVIDENCE, name)}


def test_every_row_that_can_have_a_number_has_one():
    for claim, each in claims.answers(EVIDENCE, "table", "figure", "claim"):
        assert each.verdict in verdicts.VERDICTS
        if claim["id"] in WITHOUT_NUMBERS:
            assert each.verdict == "not comparable"
        else:
            assert (each.verdict == "not comparable") is (claim["id"] in TOY), claim["id"]
            if claim["id"] not in STUDIED or each.verdict != "not measured":
                assert any(c.isdigit() for c in each.ours), claim["id"]
            assert each.how in (*verdicts.HOW, "fitted"), claim["id"]
    used = {claim["check"].split()[0] for claim in published.claims() if claim["check"]}
    assert used == set(claims.CHECKS), "a check that no row names, or a name that is no check"


def test_without_evidence_and_reports_nothing_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "read", lambda name: [])
    monkeypatch.setattr(results, "REPORTS", tmp_path)
    bare = {claim["id"]: each for claim, each in claims.answers({}, "table", "figure", "claim", "finding")}
    computed = {name for name, each in bare.items() if each.verdict not in ("not measured", "not comparable")}
    assert computed == {"T1", "G2", "C1", "C11"}  # arithmetic and the planner, which are always there


def test_a_fit_that_has_not_seen_the_model_is_what_is_in_the_file(root):
    with open(root / "reports" / "unseen.csv", newline="") as file:
        kept = list(csv.DictReader(file))
    fresh = studies.unseen()
    assert len(kept) == len(fresh) == 246
    for row, now in zip(kept, fresh, strict=True):
        assert (row["model"], row["strategy"], row["nodes"]) == (now["model"], now["strategy"], str(now["nodes"]))
        kept_number = float(row["predicted_images_per_s"])
        assert kept_number == pytest.approx(now["predicted_images_per_s"], rel=0.005), "run make predictions"


def test_swapped_predictions_of_a_figure_differ(monkeypatch):
    kept = results.read("unseen")

    def swapped(name):
        rows = [dict(row) for row in kept]
        for row in rows:
            row["predicted_images_per_s"] = 1e9 / float(row["predicted_images_per_s"])
        return rows

    assert performance.weak_scaling({}, "ViT-3B").verdict == "reproduced"
    monkeypatch.setattr(results, "read", swapped)
    assert performance.weak_scaling({}, "ViT-3B").verdict == "differs"


def test_hybrid_1gpu_has_no_lead_once_it_synchronises():
    assert found("claim")["C2"].verdict == "differs"
    one, whole = (as_published("ViT-3B", name, 128, synchronised=True) for name in ("HYBRID_1GPU", "NO_SHARD"))
    assert one["step_s"] == whole["step_s"]  # what the check takes for granted


def test_a_strategy_scales_best_when_it_is_first_nearly_everywhere(monkeypatch):
    def rows(best_on_128):
        speeds = {"SHARD_GRAD_OP": 10.0, "FULL_SHARD": 9.0}
        return [
            {"strategy": name, "nodes": n, "low": 1.0, "high": 99.0, "published": speed,
             "predicted": 20.0 if (name, n) == (best_on_128, 128) else speed}
            for name, speed in speeds.items() for n in (1, 2, 128)
        ]  # fmt: skip

    monkeypatch.setattr(blind, "throughput", lambda model: rows("SHARD_GRAD_OP"))
    assert performance.scales_best({}, "M", "SHARD_GRAD_OP").verdict == "same ordering"
    monkeypatch.setattr(blind, "throughput", lambda model: rows("FULL_SHARD"))
    answer = performance.scales_best({}, "M", "SHARD_GRAD_OP")
    assert answer.verdict == "differs"
    facts = ("first on 2 of 3", "on 128 FULL_SHARD with 20 (1 to 99)", "SHARD_GRAD_OP with 10")
    assert all(fact in answer.ours for fact in facts)


def test_every_open_item_says_what_would_settle_it(root):
    known = {cell["id"] for cell in json.loads((root / "notebooks" / "06_paper.ipynb").read_text())["cells"]}
    for claim, each in claims.answers(EVIDENCE, "table", "figure", "claim", "finding"):
        assert claim["place"], claim["id"]
        assert set(claim["shown"].split()) <= known, claim["id"]
        assert claim["behind"] in ("", *ledger.BEHIND), claim["id"]
        if each.how in ("measured", "counted") and not claim["settle"]:
            continue  # the evidence of this page is enough
        rows = ledger.settling(claim)
        if "not found" in claim["published"] or "No run can settle it" in claim["why"]:
            assert not rows, claim["id"]
        assert rows or "No run can settle it" in claim["why"], claim["id"]
        for pattern in claim["settle"].split():
            assert any(fnmatchcase(name, pattern) for name in rows), (claim["id"], pattern)


def test_what_is_fitted_to_a_figure_has_no_verdict_on_it():
    fitted = {claim["id"] for claim, each in claims.answers(EVIDENCE, "figure", "claim") if each.verdict == "fitted"}
    assert fitted == {"G2", "C1"}
    assert {row["id"] for row in published.claims() if row["behind"] == "speeds"} == fitted


@pytest.mark.parametrize(
    "wanted, verdict",
    [(("ViT-5B=2", "ViT-15B=4"), "reproduced"), (("ViT-15B=8",), "differs"), (("ViT-5B=4",), "fitted")],
)
def test_the_smallest_groups_that_fit(wanted, verdict):
    found = performance.smallest_groups({}, *wanted)
    assert found.verdict == verdict
    not_ours = "ViT-15B fits 4 GPUs under FSDP1, 61.8 GiB each; under FSDP2, as here, it does not, 65.4 GiB"
    assert (not_ours in found.ours) == ("ViT-15B" in " ".join(wanted))


def test_finding_2_says_what_its_table_says():
    """F2's numbers are the column of what was predicted unseen."""
    table = drawn.precision_predicted().frame
    said = ", ".join(f"{ratio:.2f}" for ratio in table["predicted unseen"])
    assert found("finding")["F2"].ours.startswith(f"{said} times, predicted by fits without the model")


class Finished:
    summary, settings = EVIDENCE, {}


def test_the_headline_counts_what_the_rows_say():
    table = shown.verdicts(Finished).table.set_index("verdict")
    assert table["items"].sum() == 31
    assert list(table.index) == list(verdicts.VERDICTS)
    judged, how = list(ledger.JUDGED), list(verdicts.HOW)
    assert (table.loc[judged, how].sum(axis=1) == table.loc[judged, "items"]).all()
    assert not table.loc[["fitted", "not comparable", "not measured"], how].any(axis=None)
    words = repr(shown.summary(Finished))
    for word, count in table["items"].items():
        assert f"{count} {'are reproduced (' if word == 'reproduced' else ''}".strip() in words
        if count:
            assert f"{count} {shown.COUNTED[word][count != 1]}" in words
    assert "1 is not measured" in words
    assert " 1 are" not in words
    assert f"{table.loc['reproduced', 'predicted']} predicted" in words
    page = shown.differing(Finished)._repr_html_()
    for name in table.loc["differs", "which"].split(", "):
        assert f"<strong>{name} " in page


def test_a_claim_s_words_are_escaped_and_its_verdict_is_marked():
    names = ("id", "about", "published", "certainty", "source", "why", "place")
    claim = dict.fromkeys(names, "<b>") | {"id": "F1", "shown": "start-up", "behind": "unseen", "settle": "huge_*_1"}
    page = shown.Claims(
        [(claim, Answer("<i>", 0.5, "same ordering", "simulated"))], "finding", "Findings"
    )._repr_html_()
    assert "<strong>F1</strong> &lt;b&gt;" in page
    assert "&lt;i&gt;" in page
    assert '<td data-label="here / published">0.5</td>' in page
    assert '<em class="verdict same-ordering">same ordering</em>' in page
    assert '<em class="verdict how simulated">simulated</em>' in page
    assert '<a href="#start-up">drawn below: as measured here</a>' in page
    assert 'reports/unseen.csv">numbers: reports/unseen.csv' in page
    assert "<br>To settle it on GPUs: 7 rows of batch/grids/open_items.csv: huge_*_1." in page
    page = shown.Claims([(claim, Answer("<i>", 1.0, "reproduced", "simulated"))], "finding", "")._repr_html_()
    assert "<br>To measure it on GPUs: 7 rows" in page


def test_an_unknown_study_is_answered_with_the_known_ones():
    with pytest.raises(ValueError) as refused:
        studies.study("prediction")
    assert all(name in str(refused.value) for name in studies.STUDIES)


def test_the_readme_s_table_counts_every_item_without_any_run(tmp_path):
    block = studies.readme_block(tmp_path)
    counts = [float(cell) for cell in block.splitlines()[2].split("|")[3].split(",")]
    assert [int(count) for count in counts] == [int(count) for count in TABLE_I.values()]
    assert "All 31 items" in block
    assert not studies.measured_rows(tmp_path)
