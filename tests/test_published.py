"""The paper's numbers: whole, typed, and never contradicting what is derived from them elsewhere."""

import collections

import pytest

from geofm_lib.catalog import published
from geofm_lib.catalog.models import MODELS
from geofm_lib.catalog.strategies import lookup
from geofm_lib.paper.verdicts import VERDICTS


def test_every_number_has_source_certainty_and_conditions():
    rows = published.rows()
    assert len(rows) == 403
    for row in rows:
        assert row["model"] in MODELS
        assert row["params_M"] == MODELS[row["model"]].published_params_M
        assert row["source"]
        assert row["certainty"] in ("H", "M", "L")
        assert row["workload"] == "classify"
        assert row["gpus"] == (row["nodes"] * 8 if row["nodes"] else None)
        lookup(row["strategy"].split()[0])
        # what sets rows apart is in them: no strategy needs special care by name
        assert row["precision"] == ("fp32" if row["strategy"].startswith("DDP") else "bf16")
        assert row["synchronised"] is (row["strategy"] != "HYBRID_1GPU")
        assert (row["window"] == "paper_30_steps") is (row["metric"] == "throughput")
    assert len({(*list(row.values())[:7],) for row in rows}) == 403, "no row twice"


def test_rows_are_found_by_their_columns():
    (row,) = published.rows(model="ViT-3B", strategy="FULL_SHARD", nodes=128, metric="throughput")
    assert row["value"] == 3708.0
    with pytest.raises(ValueError, match="no column 'node'"):
        published.rows(node=1)
    curves = published.scaling("ViT-5B")
    assert list(curves["HYBRID_16GPUs"]) == [2, 4, 8, 16, 32, 64, 128]
    assert published.scaling("ViT-15B")["SHARD_GRAD_OP"][128] == 2196
    assert not published.scaling("ViT-Tiny")


def test_derived_figures_in_the_claims_follow_from_the_rows():
    def kept(model, strategy):
        line = published.scaling(model)[strategy]
        return round(100 * line[128] / line[1] / 128, 1)

    models = ("ViT-Base", "ViT-Huge", "ViT-1B", "ViT-3B")
    claims = {row["id"]: row for row in published.claims()}
    for model in models:
        assert f"{kept(model, 'FULL_SHARD')} %" in claims["C7"]["published"]
    assert sorted(kept(m, "HYBRID_1GPU") for m in models) == [99.7, 101.6, 102.3, 103.0]
    assert sorted(kept(m, "NO_SHARD") for m in models) == [86.9, 89.9, 90.3, 92.4]
    ratios = [published.scaling(m)["NO_SHARD"][1] / published.scaling(m)["DDP"][1] for m in models]
    assert [round(ratio, 1) for ratio in ratios] == [1.4, 2.0, 2.1, 2.6]


def test_claims_cover_the_paper_and_use_the_five_words():
    claims = published.claims()
    kinds = collections.Counter(row["kind"] for row in claims)
    assert kinds == {"table": 3, "figure": 16, "claim": 12, "finding": 4, "question": 3}
    assert len({row["id"] for row in claims}) == len(claims)
    for row in claims:
        assert all(row[name] for name in ("about", "published", "source", "certainty", "why")), row["id"]
        assert row["verdict"] in VERDICTS if not row["check"] else not row["verdict"], row["id"]
