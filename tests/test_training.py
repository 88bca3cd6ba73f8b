"""distributed/training.py: the learning rate and the groups of weight decay, beside timm's."""

import math

import pytest
import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from geofm_lib.distributed import training
from geofm_lib.model import mae, vit

PEAK, WARMUP, TOTAL = 1.5e-4, 8, 40


def rate(step, warmup=WARMUP):
    return training.learning_rate(step, peak=PEAK, warmup_steps=warmup, total_steps=TOTAL)


def timms(warmup=WARMUP):
    """timm's rate by step. Its warm-up begins at 0, so its step k + 1 is our step k as long as both warm up."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = CosineLRScheduler(optimiser, TOTAL - warmup, warmup_t=warmup, warmup_prefix=True, t_in_epochs=False)
    return lambda step: scheduler._get_lr(step)[0]


def test_the_warm_up_is_timms_one_step_on():
    reference = timms()
    assert [rate(k) for k in range(WARMUP - 1)] == pytest.approx([reference(k + 1) for k in range(WARMUP - 1)])
    assert rate(0) == pytest.approx(PEAK / WARMUP)
    assert rate(WARMUP - 1) == PEAK


@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_the_cosine_is_timms(warmup):
    reference = timms(warmup)
    steps = range(warmup, TOTAL)
    assert [rate(k, warmup) for k in steps] == pytest.approx([reference(k) for k in steps])


def test_the_rate_by_hand():
    assert rate(WARMUP) == PEAK
    assert rate(WARMUP + 16) == pytest.approx(PEAK / 2)  # half of the cosine's 32 steps
    assert rate(TOTAL - 1) == pytest.approx(PEAK * 0.5 * (1 + math.cos(math.pi * 31 / 32)))
    assert rate(TOTAL) == 0
    assert rate(TOTAL + 5) == 0


def test_a_constant_rate_cools_down_in_a_line():
    course = {"peak": PEAK, "warmup_steps": WARMUP, "total_steps": TOTAL, "cooldown_steps": 10}
    rates = [training.learning_rate(k, **course) / PEAK for k in range(TOTAL + 2)]
    assert rates[:WARMUP] == pytest.approx([(k + 1) / WARMUP for k in range(WARMUP)])
    assert set(rates[WARMUP : TOTAL - 9]) == {1.0}, "the first of the cool-down is still whole"
    assert rates[TOTAL - 10 :] == pytest.approx([*(k / 10 for k in range(10, -1, -1)), 0])
    trunk = [training.learning_rate(k, **course | {"cooldown_steps": 0}) / PEAK for k in range(TOTAL)]
    assert trunk[:-10] == rates[: TOTAL - 10], "a branch has the rates of its trunk until it cools down"
    assert trunk[-1] == 1.0


def test_a_warm_up_may_be_a_fraction_of_a_step():
    assert rate(0, warmup=0.5) == PEAK / 1
    assert rate(1, warmup=2.5) == pytest.approx(PEAK * 2 / 2.5)


def names_of(model, group):
    """Names of a group's parameters."""
    members = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in members}


MODELS = {
    "mae": lambda: mae.build("ViT-Atto", 32, device="meta"),
    "benchmark": lambda: vit.build("ViT-Atto", "benchmark", 32, device="meta"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_what_decays_is_what_timm_lets_decay(kind):
    """timm decays what has two dimensions and more, except for names that it is told: tokens and positions."""
    model = MODELS[kind]()
    decayed, others = training.optimiser(model, 0.05).param_groups
    theirs = param_groups_weight_decay(model, 0.05, no_weight_decay_list=("*token", "*pos_embed"))
    reference = {group["weight_decay"]: names_of(model, group) for group in theirs}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert names_of(model, decayed) == reference[0.05]
    assert names_of(model, others) == reference[0.0]


def test_what_decays_by_hand():
    model = MODELS["mae"]()
    decayed, others = (names_of(model, group) for group in training.optimiser(model, 0.05).param_groups)
    outside = {name for name in decayed if "blocks" not in name}
    assert outside == {"encoder.patch_embed.proj.weight", "decoder_embed.weight", "decoder_pred.weight"}
    inside = {name.split(".", 3)[-1] for name in decayed if name.startswith("encoder.blocks.0.")}
    assert inside == {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}
    assert {"encoder.cls_token", "mask_token", "encoder.norm.weight", "decoder_pred.bias"} <= others
    assert not {"encoder.pos_embed", "decoder_pos_embed"} & (decayed | others), "fixed positions are not trained"


def test_matrices_whose_fan_in_grows_take_a_share_of_the_rate_and_are_shrunk_as_much_as_others():
    model = mae.build("ViT-1.6M", 32, device="meta")
    same, others, scaled = training.optimiser(model, 0.05, 64 / 128).param_groups
    grow = names_of(model, scaled)
    assert {n for n in grow if not n.startswith("encoder.blocks.")} == {"decoder_embed.weight"}
    assert len(grow) == 8 * 4 + 1
    assert {n for n in names_of(model, same) if "blocks" not in n} == {
        "encoder.patch_embed.proj.weight",
        "decoder_pred.weight",
    }
    assert others["weight_decay"] == 0
    for group in (same, scaled):
        assert group.get(training.SHARE, 1.0) * group["weight_decay"] == pytest.approx(0.05)
    assert len(training.optimiser(model, 0.05).param_groups) == 2, "and without a base width all is as it was"


def moved(model, share, steps=3):
    """Root mean square of what some steps of AdamW change in the encoder's last block, on the same images."""
    autoencoder = mae.build(model, 32, seed=0, norm_pix_loss=True)
    optimiser, random = training.optimiser(autoencoder, 0.0, share), torch.Generator().manual_seed(0)
    images, noise = (torch.randn(*shape, generator=random) for shape in ((16, 3, 32, 32), (16, 16)))
    seen = []
    hook = autoencoder.encoder.blocks[-1].register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    for _ in range(steps):
        autoencoder(images, noise).backward()
        for group in optimiser.param_groups:
            group["lr"] = 0.004 * group.get(training.SHARE, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    autoencoder(images, noise)
    hook.remove()
    return float((seen[-1] - seen[0]).square().mean().sqrt())


def test_coordinates_move_alike_at_every_width_only_with_the_share():
    """The coordinate check of arXiv 2203.03466: widths 64, 128 and 320."""
    widths = {"ViT-0.4M": 64, "ViT-1.6M": 128, "ViT-10M": 320}
    usual = [moved(name, 0.0) for name in widths]
    shared = [moved(name, 64 / width) for name, width in widths.items()]
    print(usual, shared)
    assert usual[0] == shared[0]
    assert usual[2] / usual[0] > 2, "one rate for all moves wide models too far"
    assert max(shared) / min(shared) < 1.5


def test_a_gradient_below_the_limit_is_not_touched_and_one_above_is_cut(monkeypatch):
    """As clip_grads_with_norm_ has it, which multiplies all of them by 1 as well."""
    monkeypatch.setattr(training.dist, "get_world_size", lambda _: 1)
    monkeypatch.setattr(training.dist, "all_reduce", lambda *_, **__: None)
    cut = []
    monkeypatch.setattr(training.nn.utils, "clip_grads_with_norm_", lambda _, clip, norm: cut.append(float(norm)))
    model = nn.Linear(4, 1, bias=False)
    for clip, times in ((0.0, 0), (3.0, 0), (2.0, 1), (1.9, 2)):  # a norm of 2 and 1e-6 for the quotient
        optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
        step = {"parts": 1, "rate": 0.0, "clip": clip}
        assert training.step(model, optimiser, [lambda: model(torch.ones(4)).sum()], **step).norm == 2
        assert cut == [2.0] * times
