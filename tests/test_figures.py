"""Figures of runs (01, 02, 03, 05): each from a run folder as a job leaves it, with its key numbers in the alt text."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

from geofm_lib.figures import data, pretrain, probe, throughput
from geofm_lib.figures._axes import smoothed
from geofm_lib.figures.display import Figure, Note, Table
from tests.support.figures import image, run_folder


@pytest.fixture
def folder(tmp_path):
    """Writes a run folder from plain values: settings, summary, metrics rows, CSV tables, npz arrays."""
    return partial(run_folder, tmp_path)


def shown(figure, *facts):
    """The figure can be drawn, and its alt text has these facts."""
    assert image(figure)
    for fact in facts:
        assert fact in figure.alt


def test_pretraining_figures(folder):
    rows = [{"step": s, "epoch": s // 10, "loss": 1.0 - 0.005 * s, "learning_rate": 1e-3, "grad_norm": 1.0}
            for s in range(1, 101)]  # fmt: skip
    run = folder(metrics=rows)
    curve = pretrain.loss(run)
    assert image(curve)
    assert "falls from 0.995 to 0.5 over 100 steps" in curve.alt
    assert len(curve.table) == 21
    assert "peaks at 0.001" in pretrain.learning_rate(run).alt
    assert isinstance(pretrain.loss(folder()), Note)


MEASURED = {"trained_on_loss": 0.52, "trained_on_interval": 0.012, "trained_on_images": 256, "held_out_side": "val",
            "held_out_loss": 0.61, "held_out_interval": 0.034, "held_out_images": 40, "patch_mean_loss": 0.9871,
            "loss": 0.5, "loss_steps": 10}  # fmt: skip


def test_a_loss_is_drawn_beside_what_it_must_be_held_against(folder):
    """Held out and train images under the same masks, and what the mean of each patch alone would have."""
    rows = [{"step": s, "epoch": s / 10, "loss": 1.0 - 0.005 * s, "learning_rate": s / 1e4} for s in range(1, 101)]
    run = folder({"norm_pix_loss": True}, MEASURED, rows)
    curve, rates = pretrain.loss(run), pretrain.learning_rate(run)
    shown(curve, "0.520 ± 0.012 on 256 train images", "0.610 ± 0.034 on 40 val images", "one brightness a patch: 0.987")
    (ax,) = curve.figure.axes
    named = [text.get_text() for text in curve.figure.legends[0].get_texts()]
    assert len(named) == 5 == len(ax.get_legend_handles_labels()[0]), "every mark has its words"
    smooth = ax.lines[1].get_ydata()
    np.testing.assert_allclose(smooth, [row["loss"] for row in rows], err_msg="a straight line stays one")
    short = pretrain.loss(folder({}, MEASURED, rows[:20])).figure
    assert [text.get_text() for text in short.legends[0].get_texts()][0] == "loss, each logged step"
    assert not [text for text in short.legends[0].get_texts() if "mean over" in text.get_text()], "too few to smooth"
    assert {each.get_xlabel() for each in (*curve.figure.axes, *rates.figure.axes)} == {"epoch"}


def test_smoothing_lags_neither_inside_nor_at_the_ends():
    steps = pd.Series([0.0] * 50 + [1.0] * 50)
    found = smoothed(steps, 10)
    np.testing.assert_allclose(found + found[::-1], 1, err_msg="symmetric about the jump")
    assert (found[0], found[44], found[-1]) == (0, 0, 1)
    assert smoothed(pd.Series([3.0]), 1).tolist() == [3.0]
    np.testing.assert_equal(smoothed(pd.Series([1.0, np.nan, np.inf, 3.0, 3.0, 3.0]), 2), [1, 1, 3, 3, 3, 3])
    np.testing.assert_equal(smoothed(pd.Series([np.nan, 1.0]), 0), [np.nan, 1])


def test_what_is_rebuilt_stands_beside_patch_means(folder):
    """Errors are of what was masked alone, so visible patches make no model look better."""
    original = np.full((2, 8, 8, 3), 100, np.uint8)
    hidden = np.zeros((2, 8, 8), bool)
    hidden[:, :4] = True
    arrays = {"original": original, "masked": original, "hidden": hidden}
    arrays |= {name: np.where(hidden[..., None], 100 + off, original) for name, off in (("rebuilt", 10), ("means", 20))}
    run = folder(
        {"dataset": "scenes", "norm_pix_loss": True}, {"rebuilt": "val"}, arrays={"reconstruction.npz": arrays}
    )
    figure = pretrain.reconstruction(run)
    assert "mean and contrast put back from the original" in figure.alt
    assert "rebuilt 28.1 dB, one brightness a patch 22.1 dB" in figure.alt  # 20 log10(255 / 10)
    labels = ["rebuilt\n28.1 dB", "one brightness\na patch, 22.1 dB"]
    assert [ax.get_ylabel() for ax in figure.figure.axes[::2]][2:] == labels
    assert "nearer than the mean colour" not in str(pretrain.answer(run)), "nothing says how large a patch is"
    del arrays["means"], arrays["hidden"]
    run = folder({"dataset": "scenes"}, {"rebuilt": "val"}, arrays={"reconstruction.npz": arrays})
    assert "An earlier version kept nothing to compare it with" in pretrain.reconstruction(run).alt


def test_a_mean_colour_is_a_guess_that_a_rebuilt_image_must_beat(folder):
    """Two patches of 4 pixels are masked: their first band differs by 20 within a patch, their second is constant."""
    original = np.zeros((1, 8, 8, 3), np.uint8)
    original[..., 0], original[:, ::2, :, 0], original[..., 1] = 120, 100, 200
    hidden = np.zeros((1, 8, 8), bool)
    hidden[:, :4] = True
    grey = np.where(hidden[..., None], np.uint8(103), original)  # (110 + 200 + 0) / 3
    rebuilt = np.where(hidden[..., None], original + np.uint8(15), original)
    arrays = {"original": original, "masked": grey, "hidden": hidden, "means": grey, "rebuilt": rebuilt}
    run = folder({"dataset": "scenes", "norm_pix_loss": True}, {"rebuilt": "test"},
                 arrays={"reconstruction.npz": arrays})  # fmt: skip
    (run.folder / "encoder").mkdir()
    (run.folder / "encoder" / "config.json").write_text('{"patch_size": 4}')
    figure = pretrain.reconstruction(run)
    told = "rebuilt 24.6 dB, one brightness a patch 9.9 dB, mean colour of each patch 32.9 dB"
    assert told in figure.alt  # mean squares: 225, (149 + 9409 + 10609) / 3, 100 / 3
    assert [ax.get_ylabel() for ax in figure.figure.axes][-1] == "mean colour\n32.9 dB"
    (row,) = pretrain.doubts(run).frame.to_dict("records")
    assert row["doubt"] == "what it rebuilds is no nearer than the mean colour of each patch"
    assert told in row["evidence"] and "1 test image:" in row["evidence"]
    assert "true brightness and contrast put back" in str(pretrain.answer(run))


def test_lists_of_a_preparation(folder):
    rows = [
        {"class": name, "card": 100, "found": found, "missing": 100 - found} for name, found in (("a", 100), ("b", 97))
    ]
    rows.append({"class": "all", "card": 200, "found": 197, "missing": 3})
    twins = [{"name": "b/2", "same_as": "b/1", "kind": "near", "distance": 4}]
    twins.append({"name": "a/2", "same_as": "a/1", "kind": "exact", "distance": 0})
    index = [{"name": str(k), "width": 200 + k, "height": 100 + 10 * k} for k in range(30)]
    packed = {"shards": 2, "bytes": 2**20, "images": 30, "packed_images_per_s": 812.3, "fingerprint": "abc"}
    packed["card"] = "ucm"
    run = folder(summary=packed, tables={"card.csv": rows, "duplicates.csv": twins, "index.csv": index})
    counts = data.card_counts(run)
    assert counts.frame["class"].tolist() == ["b", "all", "a"]
    assert "1 of 2 classes" in counts.caption
    card = data.card(run).frame.set_index("fact")
    assert "UC Merced" in card.loc["data set", "official set"]
    assert card.loc["images"].tolist() == ["2,100", "30"]
    assert card.loc["pixels a side", "here"] == "100 to 229"
    assert card.loc["share for training", "here"] == "", "a split of its own says nothing about the card's share"
    run = folder({"tile": 64}, packed | {"split_by": "random", "train": 20, "test": 10}, tables={"index.csv": index})
    card = data.card(run).frame.set_index("fact")
    assert card.loc[["images", "pixels a side", "share for training"], "here"].tolist() == ["", "", "0.67"]
    drawn = data.card(folder({}, {"card": "scenes", "images": 6400}))
    assert "nothing to compare with" in drawn.caption and "3,200" not in repr(drawn)
    run = folder(summary=packed, tables={"card.csv": [row | {"card": None, "missing": 0} for row in rows[:2]]})
    assert "says no number for a class; 2 of its 2 classes are here" in data.card_counts(run).caption
    run = folder(summary=packed, tables={"duplicates.csv": twins, "index.csv": index})
    assert "812" in repr(data.packing(run))
    found = data.duplicates(run)
    assert found.frame["name"].tolist() == ["a/2", "b/2"]
    assert "1 with the same pixels, 1 nearly" in found.caption
    sizes = data.sizes(run)
    shown(sizes, "from 100 to 229 pixels")
    assert len(sizes.table) == 10


def test_a_preparation_that_found_nothing_says_so(folder):
    run = folder(summary={"card": ""})
    for note in (data.card_counts(run), data.card(run), data.packing(run), data.classes(run), data.sizes(run)):
        assert isinstance(note, Note)
    for table in (data.refused(run), data.duplicates(run), data.statistics(run)):
        assert table.frame.empty


def noise(*shape):
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_photographs_are_jpeg_sheets_of_any_number_of_channels(folder, channels):
    names = ("original", "masked", "rebuilt")
    run = folder({"dataset": "scenes"}, arrays={"reconstruction.npz": {n: noise(4, 32, 32, channels) for n in names}})
    figure = pretrain.reconstruction(run)
    assert image(figure).format == "JPEG"
    assert "4 images" in figure.alt


def test_photographs_of_other_sets_can_be_left_out(folder, monkeypatch, tmp_path):
    sheet = {"contact_sheet.npz": {"images": noise(12, 48, 48, 3), "labels": np.array(["river", "harbour"] * 6)}}
    run = folder({"dataset": "/elsewhere/ucm.tar"}, arrays=sheet)
    assert "river, harbour" in pretrain.contact_sheet(run).alt
    monkeypatch.setenv("GEOFM_PICTURES", "builtin")
    assert "left out" in repr(pretrain.contact_sheet(run))
    assert isinstance(pretrain.contact_sheet(folder({"dataset": "scenes"}, arrays=sheet)), Figure)
    # a prepared folder says more than the default of `dataset`
    assert isinstance(pretrain.contact_sheet(folder({"dataset": "scenes", "data": str(tmp_path / "no")})), Note)


def test_data_figures(folder):
    summary = {"classes": {"river": 20, "harbour": 12}, "train": 16, "test": 16}
    run = folder(summary=summary, tables={"refused.csv": [{"name": "a<b>.jpg", "reason": "truncated"}]})
    counts = data.classes(run)
    shown(counts, "from 12 to 20 images", "16 train and 16 test")
    assert "a&lt;b&gt;.jpg" in data.refused(run)._repr_html_()


THROUGHPUT = {"model": "ViT-Atto", "strategy": "FULL_SHARD", "workload": "mae", "precision": "fp32", "batch_per_gpu": 4,
              "activation_checkpointing": False, "image_size": 64, "patch_size": 0, "warmup_steps": 2}  # fmt: skip


def test_throughput_figures(folder):
    ranks = [{"rank": r, "step_s": 0.2, "data_s": 0.0, "forward_s": 0.05, "backward_s": 0.1, "optimiser_s": 0.05,
              "peak_memory_gib": 0.5 + r / 10, "parameters_gib": 0.001, "all_gather_bytes": 2**20,
              "all_gather_calls": 5} for r in range(2)]  # fmt: skip
    metrics = [{"step": s, "step_s": 0.9 if s < 3 else 0.2} for s in range(1, 12)]
    metrics += [{"step": s, "phase": "profiled"} for s in range(12, 15)]
    run = folder(THROUGHPUT, {"images_per_s": 40.0, "step_s": 0.2}, metrics, {"ranks.csv": ranks})
    shown(
        throughput.steps(run), "0.2 s (median, half of the steps 0.2 to 0.2), 40 images/s", "11 steps"
    )  # profiled steps are not in the window
    shown(throughput.step_breakdown(run), "backward 50 %")
    for words in ("0.6 GiB", "not tracked"):
        assert words in repr(throughput.memory(run))
    assert throughput.communication(run).frame.iloc[0]["MiB"] == 1.0
    assert 40.0 in set(throughput.speed(run).frame["value"])
    for note in (throughput.timeline(run), throughput.breakdown_compared(run), throughput.inputs(run)):
        assert "profile_steps" in repr(note) or "compare=True" in repr(note)
    assert "Nothing stands out" in repr(throughput.advice(run))
    held = {"tracked_peak_gib": 0.2, "tracked_activations_gib": 0.15, "tracked_parameters_gib": 0.05}
    window = [{"step": s, "step_s": 0.2 + s / 1000, "phase": "steady window"} for s in range(21)]
    parts = [
        row | {"profiled_step_s": 0.2, "profiled_backward_s": 0.12, "profiled_communication_s": 0.08} for row in ranks
    ]
    known = folder(THROUGHPUT, {"images_per_s": 40.0, "step_s": 0.2, "global_batch": 8} | held, window,
                   {"ranks.csv": parts})  # fmt: skip
    said = repr(throughput.answer(known))
    assert "images/s (95 % interval 39" in said, said
    assert "60 % of a profiled step is backward, 40 % exposed communication" in said
    assert "75 % of 0.2 GiB of tensors is activations" in said
    assert "before kernels were chosen" in repr(throughput.kernels(run))
    row = {"stack": "encoder", "images": 4, "tokens": 17, "attention": "plain", "linear": "matmul"}
    row["ms"] = {"fused+matmul": 2.5, "plain+matmul": 1.25}
    (run.folder / "kernels.json").write_text(json.dumps({"how": "measured", "device": "a device", "stacks": [row]}))
    table = throughput.kernels(run)
    assert table.frame["ms, plain and matmul"][0] == 1.25
    assert "a device" in table.caption and "plain" in table._repr_html_()


def profiled(world=2, **seconds):
    """Rows of ranks.csv with these profiled seconds of a step of 1 s; a list has one value a rank."""
    usual = {"data": 0.0, "forward": 0.3, "backward": 0.5, "communication": 0.1, "optimiser": 0.08, "other": 0.02}
    parts = {name: value if isinstance(value, list) else [value] * world for name, value in (usual | seconds).items()}
    return [{"rank": r, "host": f"node{r}", "step_s": 1.0, "data_s": parts["data"][r], "forward_s": 0.4,
             "backward_s": 0.5, "optimiser_s": 0.1, "profiled_step_s": sum(parts[name][r] for name in parts),
             **{f"profiled_{name}_s": values[r] for name, values in parts.items()}} for r in range(world)]  # fmt: skip


@pytest.mark.parametrize(
    "seconds, asked, facts",
    [
        ({"data": 0.37}, {"input": "real", "workers": 1}, ["37 % of the step is spent waiting", "from 1 to 2"]),
        ({"data": 0.37}, {"input": "real", "workers": 4}, ["Every core has its worker", "short_side"]),
        (
            {"communication": 0.8},
            {},
            ["47 % of the step is exposed", "SHARD_GRAD_OP", "NO_SHARD or DDP", "forward_prefetch=1", "bf16"],
        ),
        ({"communication": 0.8}, {"strategy": "DDP", "precision": "bf16"}, ["Try more images per GPU than 4."]),
        ({"optimiser": 0.9}, {}, ["is the optimiser", "larger shard group"]),
        ({"other": 0.3}, {}, ["in none of its phases", "trace=True"]),
        # rank 1 works twice as long: the others' waiting is not laid at communication's door
        ({"forward": [0.3, 1.3], "communication": [1.1, 0.1]}, {}, ["Rank 1 on node1 works 2.1 times", "exclude"]),
        ({"communication": 0.2}, {}, ["18 % of the step is exposed communication"]),  # 15 % is the share, and is said
        ({}, {}, ["Nothing stands out: no part", "15 % exposed communication", "forward 30 %"]),
    ],
)
def test_what_is_slow_is_listed_with_what_to_change(folder, seconds, asked, facts):
    usual = {"workers": 0, "input": "synthetic", "forward_prefetch": 0}
    run = folder(THROUGHPUT | usual | asked, tables={"ranks.csv": profiled(**seconds)})
    (run.folder / "environment.json").write_text(json.dumps({"cores": 4, "ranks": 2, "nodes": ["a"]}))
    advice = throughput.advice(run)
    text = advice.empty if advice.frame.empty else " ".join(advice.frame.to_numpy().ravel())
    for fact in facts:
        assert fact in text
    assert len(advice.frame) <= 1, text


def test_a_step_breakdown_is_drawn(folder):
    lanes = [("phase", "forward"), ("work", "work"), ("collective", "all-gather"), ("wait", "waiting")]
    drawn = [{"rank": r, "lane": lane, "name": name, "start_s": 0.1 * k + r, "duration_s": 0.1}
             for r in range(2) for k, (lane, name) in enumerate(lanes)]  # fmt: skip
    ranks = [
        {**row, "no_communication_step_s": 0.6, "synthetic_step_s": 0.8, "no_communication_forward_s": 0.2}
        for row in profiled(40)
    ]
    summary = {"real_images_per_s": 30.0, "synthetic_images_per_s": 40.0, "no_communication_images_per_s": 53.0}
    run = folder(THROUGHPUT | {"profile_steps": 20}, summary, tables={"ranks.csv": ranks, "timeline.csv": drawn})
    assert throughput.inputs(run).alt.startswith("Images take 25 % of the images/s; communication takes 25 %. ")
    assert "is against 0.8 s, a step of the same model" in throughput.breakdown_compared(run).caption
    shown(throughput.timeline(run), "rank 1 0.1 of 0.4 s")
    names = [text.get_text() for text in throughput.step_breakdown(run).figure.axes[0].get_yticklabels()]
    assert names[0].startswith("rank "), "names of bars, not their places"
    shown(throughput.step_breakdown(run), "16 ranks", "exposed communication 10 %")  # of 40, those of the longest step
    table = throughput.breakdown_compared(run).frame.set_index("seconds")
    assert table.iloc[:, -1]["exposed communication"] == pytest.approx(0.2)
    shown(throughput.inputs(run), "synthetic, no communication 53")


def test_bars_of_a_throughput_run_have_their_spread(folder):
    """The middle half of the slowest rank's steps; a run of an earlier version says that it kept none."""
    kinds = {"": 1.0, "profiled_": 1.0, "real_": 1.25, "synthetic_": 1.0, "no_communication_": 0.8}
    more = {
        f"{kind}step_{end}_s": step + off for kind, step in kinds.items() for end, off in (("low", -0.1), ("high", 0.2))
    }
    ranks = [row | {f"{kind}step_s": step for kind, step in kinds.items()} | more for row in profiled()]
    rates = {f"{kind}images_per_s": 40 / step for kind, step in kinds.items()}
    summary = rates | {"global_batch": 40, "step_s": 1.0}
    run = folder(THROUGHPUT, summary, tables={"ranks.csv": ranks})
    speed = throughput.speed(run).frame.set_index("what")
    assert speed.loc["images/s, steady window", ["from", "to"]].tolist() == pytest.approx([40 / 1.2, 40 / 0.9])
    shown(inputs := throughput.inputs(run), "real images 32;", "Whiskers: the middle half of the steps")
    assert inputs.table[["low", "high"]].to_numpy()[0] == pytest.approx([40 / 1.45, 40 / 1.15])
    shown(breakdown := throughput.step_breakdown(run), "Whiskers: the middle half of the steps")
    for figure, bars in ((inputs, 3), (breakdown, 2)):
        (ax,) = figure.figure.axes
        (whisker,) = [each for each in ax.containers if hasattr(each, "has_xerr")]
        assert len(whisker.lines[2][0].get_segments()) == bars
    old = [{name: value for name, value in row.items() if name not in more} for row in ranks]
    run = folder(THROUGHPUT, summary, tables={"ranks.csv": old})
    for figure in (throughput.inputs(run), throughput.step_breakdown(run)):
        shown(figure, "An earlier version kept no spread of the steps.")
    assert list(throughput.speed(run).frame.columns) == ["what", "value"]


def test_probe_figures(folder):
    kinds = {"pretrained": 60, "random": 40}
    rows = [{"features": kind, "seed": seed, "epoch": epoch, "top1": base + epoch, "top5": 90.0, "loss": 1.0}
            for kind, base in kinds.items() for seed in range(3) for epoch in (1, 2)]  # fmt: skip
    summary = {"top1_pretrained_mean": 62.0, "top1_pretrained_interval": 1.5, "top1_random_mean": 42.0,
               "top1_random_interval": None, "histograms_top1": 55.0, "chance": 10.0}  # fmt: skip
    run = folder(summary=summary, tables={"probe.csv": rows})
    shown(probe.accuracy(run), "pretrained, linear probe 62.0 ± 1.5", "chance 10.0")
    shown(probe.curves(run), "pretrained 62.0 top-1")
    two = summary | {"top1_pretrained_interval": None, "top1_pretrained_values": [60.5, 63.5]}
    drawn = probe.accuracy(folder(summary=two, tables={"probe.csv": rows}))
    assert "pretrained, linear probe 62.0 (two seeds: 60.5, 63.5)" in drawn.alt
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts()] == ["each of two seeds"]
    run = folder(summary=summary, tables={"probe.csv": rows})
    assert "62" in repr(probe.numbers(run))
    assert isinstance(probe.verdict(run), Note)


def test_loader_speed_is_read_from_its_file(tmp_path):
    file = tmp_path / "loader.csv"
    assert isinstance(data.loader_speed(file), Note)
    file.write_text(
        "pipeline,workers,images_per_s,ratio_to_imagefolder,low,high\nimagefolder,0,400,1,1,1\ngeofm,0,640,1.6,1.5,1.7\n"
        "imagefolder,2,500,1,1,1\ngeofm,2,900,1.8,1.7,1.9\n"
    )
    shown(found := data.loader_speed(file), "geofm 1.6 (no worker process)", "geofm 1.8 (2 workers)")
    assert "Ours brings 640 images/s there with one process" in found.alt


def test_tables_show_numbers_plainly():
    table = Table(pd.DataFrame({"a": [1, 12345], "b": [0.123456, float("nan")], "c": ["<", "x"]}), "Caption")
    text = table._repr_html_()
    for words in ("12,345", "0.123", "–", "&lt;", "Caption"):
        assert words in text
    spread = Table(pd.DataFrame([{"images/s": 2206.3, "low": 1911.2, "high": 2546.4, "share": 0.5}]))
    assert spread.cells(spread.frame.to_dict("records")[0]) == ["2,210", "1,910", "2,550", "0.5"], (
        "as the spread allows"
    )
    assert not spread.wide
