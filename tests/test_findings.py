"""jobs/findings.py on four real ranks, the verdicts that follow from its evidence, and notebook 06 on top of them."""

import json
from importlib.util import find_spec

import pytest

from geofm_lib.catalog import published
from geofm_lib.catalog.models import MODELS
from geofm_lib.figures import claims as shown
from geofm_lib.paper.claims import answers
from geofm_lib.report import execute
from geofm_lib.runs.run import Run
from geofm_lib.settings import FindingsSettings, PaperSettings, SettingsError
from tests.support import ranks

pytestmark = pytest.mark.alone  # the start-up is a difference of times, negative when others take the processors

SMALL = {"model": "ViT-Atto", "larger_model": "ViT-Atto", "image_size": 32, "steps": 3}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    return ranks.start("findings", folder, 4, settings=SMALL, run_dir=str(folder))


@pytest.fixture(scope="module")
def evidence(found):
    """As the worker writes it into summary.json."""
    return {"status": "finished", "ranks": 4, **found["with"]}


def test_replicas_drift_apart_under_fsdp1_with_a_shard_group_of_one_and_nowhere_else(evidence):
    assert evidence["fsdp1_group_1_strategy"] == "NO_SHARD"
    assert evidence["fsdp1_group_2_strategy"] == "HYBRID_SHARD"
    assert evidence["fsdp1_group_1_gradient_difference"] > 1e-3 < evidence["fsdp1_group_1_weight_difference"]
    for same in ("fsdp1_group_2", "ours_group_1", "ours_group_2"):
        assert evidence[f"{same}_gradient_difference"] == evidence[f"{same}_weight_difference"] == 0
        assert evidence[f"{same}_largest_gradient"] > 0, "nothing was compared"


def test_a_torch_without_fsdp1_says_so(found, evidence):
    changed = found["without"]
    assert "no FSDP1" in changed["fsdp1"]
    assert not [name for name in changed if name.startswith("fsdp1_")]
    assert changed["ours_group_1_gradient_difference"] == 0
    without = {name: value for name, value in evidence.items() if not name.startswith("fsdp1")} | changed
    (third,) = [each for claim, each in answers(without, "finding") if claim["id"] == "F3"]
    assert third.verdict == "not measured"
    assert third.ours == changed["fsdp1"]


def test_every_measure_is_there_and_counts_are_table_i(evidence):
    assert all(evidence[f"{s}_{p}_step_s"] > 0 for s in ("DDP", "NO_SHARD") for p in ("fp32", "bf16"))
    for size in ("small", "larger"):
        assert evidence[f"{size}_start_up_s"] > 0
        assert 0 < evidence[f"{size}_window_over_steady"] < 1
    for row in MODELS.values():
        if row.published_params_M:
            assert evidence[f"benchmark_parameters_{row.name}"] // 10**6 == row.published_params_M
            assert evidence[f"pretrain_parameters_{row.name}"] < evidence[f"benchmark_parameters_{row.name}"]
    assert find_spec(f"geofm_lib.jobs.{FindingsSettings.job}"), "the worker would find no such job"


def test_the_findings_follow_from_the_evidence(evidence):
    first, second, third, fourth = (each for _, each in answers(evidence, "finding"))
    assert (first.verdict, third.verdict) == ("reproduced", "reproduced")
    assert all(any(c.isdigit() for c in each.ours) for each in (first, second, third, fourth))
    same = evidence | {"fsdp1_group_1_gradient_difference": 0.0}
    assert [each.verdict for _, each in answers(same, "finding")][2] == "differs"
    leaking = evidence | {"ours_group_2_gradient_difference": 1e-6}
    assert [each.verdict for _, each in answers(leaking, "finding")][2] == "differs"


@pytest.mark.parametrize(
    "small, larger, verdict",
    [(0.78, 0.97, "same ordering"), (0.92, 0.97, "same ordering"), (0.97, 0.92, "differs"), (0.9, 1.02, "differs")],
)
def test_start_up_must_hide_more_of_the_small_model(evidence, small, larger, verdict):
    changed = evidence | {"small_window_over_steady": small, "larger_window_over_steady": larger}
    assert [each.verdict for _, each in answers(changed, "finding")][3] == verdict


@pytest.mark.parametrize("no_shard", [1.1, 0.5])
def test_a_toy_batch_on_cpus_is_not_held_against_gpus(evidence, no_shard):
    """C4 is told with what was run, and has no verdict: two images a rank are not 32 on a GPU."""
    changed = evidence | {f"{s}_{p}_step_s": no_shard if s == "NO_SHARD" else 1.0 for s in ("DDP", "NO_SHARD")
                       for p in ("fp32", "bf16")}  # fmt: skip
    changed |= {"larger_model": "ViT-Pico", "batch_per_gpu": 2}
    (found,) = [each for claim, each in answers(changed, "claim") if claim["id"] == "C4"]
    assert found.verdict == "not comparable"
    assert f"{1 / no_shard:.2f} times as fast as DDP" in found.ours
    assert "ViT-Pico on 4 CPU ranks, 2 images each" in found.ours


@pytest.mark.long  # .ci/run makes all six pages anyway
def test_the_front_page_shows_them(evidence, root, tmp_path, monkeypatch):
    """Notebook 06 on a finished findings run: it is read, and every row of the paper ends in a verdict."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path))
    settings = PaperSettings().findings()
    settings.folder().mkdir(parents=True)
    stored = {"job": settings.job, "asked": settings.asked(), "resolved": {"ranks": 4}}
    (settings.folder() / "settings.json").write_text(json.dumps(stored))
    (settings.folder() / "summary.json").write_text(json.dumps(evidence))
    state, error, page, _ = execute.execute(root / "notebooks" / "06_paper.ipynb", {})
    assert (state, error) == ("finished", "")
    text = page.read_text()
    assert text.count('<tr class="more">') == len(published.claims())
    assert "drift apart" in text
    assert text.count("<img") >= 9


def test_figures_of_the_evidence(evidence, tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"job": "findings", "asked": FindingsSettings(**SMALL).asked()}))
    (tmp_path / "summary.json").write_text(json.dumps(evidence))
    run = Run(tmp_path)
    assert list(shown.replicas(run).frame["replicas"]) == ["drift apart", "agree", "agree", "agree"]
    assert shown.precision_measured(run).frame["speed over DDP in fp32"].iloc[0] == 1
    assert "authors' log 0.77" in shown.start_up(run).alt
    without = {name: value for name, value in evidence.items() if not name.startswith("fsdp1_")}
    (tmp_path / "summary.json").write_text(json.dumps(without | {"fsdp1": "torch 9 has no FSDP1 any more."}))
    for words in ("no FSDP1", "replicas agree"):
        assert words in repr(shown.replicas(run))


@pytest.mark.parametrize(
    "odd, said",
    [
        ({"ranks": 2}, "ranks: 2 cannot show whether replicas agree"),
        ({"ranks": 5}, "use 4 or another even number"),
        ({"larger_model": "ViT-Pica"}, "larger_model: .*'ViT-Pica'.*did you mean 'ViT-Pico'"),
        ({"larger_model": "ViT-Tiny", "image_size": 40}, "not a multiple of the patch size 16"),
        ({"steps": 1}, "steps: 1 cannot be used"),
    ],
)
def test_nonsense_gets_one_sentence(odd, said):
    with pytest.raises(SettingsError, match=said) as refused:
        FindingsSettings(**odd)
    assert "\n" not in str(refused.value)
    if "ranks" in odd:
        with pytest.raises(SettingsError, match=said):
            PaperSettings(**odd)
