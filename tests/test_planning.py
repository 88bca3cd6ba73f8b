"""planning: the arithmetic against the built networks, torch's own counters, and published memory."""

from statistics import median

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from geofm_lib.catalog import published
from geofm_lib.catalog.models import MODELS
from geofm_lib.model import mae, vit
from geofm_lib.planning.conditions import BATCH, BENCHMARK, Conditions, gib
from geofm_lib.planning.flops import flops, training_flops
from geofm_lib.planning.memory import STACKS, block_activations, rank_memory
from geofm_lib.planning.steps import step_traffic
from geofm_lib.planning.weights import WORKLOADS, parameters, units
from geofm_lib.profiling.step_timing import Classifier

TINY = {"image_size": (32, 64), "channels": 5, "patch_size": 8}


def build(name, workload, device="meta", **size):
    if workload == "mae":
        return mae.build(name, device=device, **size)
    if workload == "classify":
        return Classifier(vit.build(name, "benchmark", device=device, **size)).network  # as it is trained
    return vit.build(name, "pretrain", device=device, **size)


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("size", [{}, TINY], ids=["224", "rectangle"])
@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_known_by_name_and_shape(name, workload, size):
    named = dict(build(name, workload, **size).named_parameters())
    built = {n: tuple(p.shape) for n, p in named.items()}
    fixed = {n for n, p in named.items() if not p.requires_grad}
    found = units(name, workload, **size)
    ours = {n if u.name == "root" else f"{u.name}.{n}": s for u in found for n, s in u.shapes.items()}
    assert ours == built
    assert {n for u in found for n in u.fixed} == fixed
    assert parameters(name, workload, **size) == sum(map(_product, built.values()))


def _product(shape):
    return torch.Size(shape).numel()


# torch's counter knows the fused attention of GPUs, not the CPU's: the same rule for it.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
}


def step(model, workload, images, noise):
    if workload == "mae":
        return model(images, noise)
    return F.cross_entropy(model(images), torch.zeros(len(images), dtype=torch.long))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("workload", ["mae", "classify"])
def test_operations_are_what_torch_counts(workload, checkpointing):
    model = build("ViT-Atto", workload, "cpu", **TINY)
    stacks = [model.encoder.blocks, model.decoder_blocks] if workload == "mae" else [model.blocks]
    for block in [block for stack in stacks for block in stack] if checkpointing else []:
        forward = block.forward
        block.forward = lambda x, forward=forward: checkpoint(forward, x, use_reentrant=False)
    images, noise = torch.randn(2, 5, 32, 64), torch.rand(2, 32)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        step(model, workload, images, noise).backward()
    assert 2 * training_flops("ViT-Atto", workload, checkpointing, **TINY) == counter.get_total_flops()


def test_operations_of_the_paper():
    """The log of the authors' code: 4.534 TFLOP for a step of 32 images of ViT-Base with recomputation."""
    assert training_flops("ViT-Base", "classify", True) * 32 / 1e12 == pytest.approx(4.534, abs=5e-4)
    forward = {"ViT-Base": 35.3, "ViT-Huge": 336, "ViT-1B": 482, "ViT-3B": 1600, "ViT-5B": 2770, "ViT-15B": 7630}
    for name, giga in forward.items():
        assert flops(name, "classify").forward / 1e9 == pytest.approx(giga, rel=3e-3), name
    # MAE's encoder sees a quarter of the patches: about a quarter of the operations, plus the decoder's
    assert flops("ViT-3B", "mae").forward / 1e12 == pytest.approx(0.41, abs=0.005)


@pytest.mark.parametrize("family", vit.FAMILIES)
def test_what_a_block_keeps_is_what_autograd_saves(family):
    model = vit.build("ViT-Femto", family, 64)
    block, row = model.blocks[0], MODELS["ViT-Femto"]
    weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        block(torch.randn(2, 65, row.width, requires_grad=True))
    gated = family == "benchmark"
    mlp_dim = row.gated_mlp_dim if gated else row.mlp_dim
    expected = block_activations(row.width, mlp_dim, row.heads, tokens=65, compute=4, gated=gated)
    assert sum(saved.values()) == 2 * expected


def peaks():
    """Published peak active memory, GiB, of 32 images per rank with activation checkpointing."""
    for row in published.peaks():  # bars without a number of ranks are said to hold for all of them
        yield row["model"], row["strategy"], row["gpus"] or 64, row["value"], row["precision"]


def apart(stack, libraries=0):
    """(model, strategy, ranks) -> arithmetic over published peak, less one."""
    found = {}
    for model, strategy, world, value, precision in peaks():
        held = rank_memory(model, strategy, world, BATCH, Conditions("classify", precision), stack=stack)
        found[model, strategy, world] = gib(held.peak + libraries) / value - 1
    print(*(f"{' '.join(map(str, key)):40} {off:+.3f}" for key, off in found.items()), sep="\n")
    return found


def of(found, *strategies):
    return [abs(off) for (_, strategy, _), off in found.items() if strategy.startswith(strategies)]


def test_memory_against_the_published_peaks():
    """As the paper ran it: FSDP1 on the libraries of 2023."""
    found = apart("fsdp1")
    assert len(found) == 86
    assert median(of(found, "")) <= 0.03
    assert max(of(found, "")) <= 0.10
    # HYBRID_1GPU was NO_SHARD in effect, and two runs of the same differ by 6 % in the paper
    assert max(of(found, "SHARD_GRAD_OP", "HYBRID_2", "HYBRID_4", "HYBRID_8", "HYBRID_16", "FULL_SHARD")) <= 0.05


def test_what_fsdp2_holds_otherwise():
    """fully_shard, as we run it, and the libraries beside it: near the paper's, and where it is not, why.

    It has fewer blocks in flight (FULL_SHARD), no casts waiting for their stream (NO_SHARD), but keeps the reduced
    shards of replicas to the end (HYBRID_kGPUs).
    """
    found = apart("fsdp2", libraries=STACKS["fsdp1"].libraries)
    sharded = of(found, "SHARD_GRAD_OP", "HYBRID_2", "HYBRID_4", "HYBRID_8", "HYBRID_16")
    assert median(sharded) <= 0.08
    assert max(sharded) <= 0.12
    assert max(of(found, "FULL_SHARD", "NO_SHARD", "HYBRID_1GPU", "DDP")) <= 0.25
    fsdp1, fsdp2 = (
        rank_memory("ViT-3B", "NO_SHARD", 8, BATCH, BENCHMARK, stack=stack).peak for stack in ("fsdp1", "fsdp2")
    )
    assert gib(fsdp1 - fsdp2) == pytest.approx(61.7 - 52.6, rel=0.2)


def test_blocks_in_flight_are_what_published_active_has_above_allocated():
    """The one thing about FSDP1 that is not read in code: peak active less max allocated, in blocks of bf16."""
    rows = published.rows()
    seen = {(r["metric"], r["model"], r["strategy"]): r["value"] for r in rows if r["nodes"] is None}
    blocks = []
    for (metric, model, strategy), value in seen.items():
        if "active" in metric and strategy.startswith("HYBRID") and strategy not in ("HYBRID_1GPU", "HYBRID_16GPUs"):
            block = gib(2 * units(model, "classify")[0].count())
            blocks.append((value - seen["GPU memory max allocated", model, strategy]) / block)
    assert len(blocks) == 9
    assert all(6 < each < 10 for each in blocks)
    stack = STACKS["fsdp1"]
    # with k = 2 the reduced shards on their way are a block of bf16 for each; what is at work is allocated too
    assert median(blocks) == pytest.approx(stack.weights + stack.most + stack.shards, rel=0.15)


def test_memory_adds_up():
    whole = rank_memory("ViT-Atto", "NO_SHARD", 4, 8, BENCHMARK, image_size=64)
    count = parameters("ViT-Atto", "classify", image_size=64)
    assert (whole.parameters, whole.gradients, whole.optimiser) == (4 * count, 4 * count, 8 * count)
    assert whole.peak == sum(vars(whole).values()) - whole.gradients


def test_what_changes_memory():
    plain = rank_memory("ViT-Base", "FULL_SHARD", 8, 8, Conditions(activation_checkpointing=False))
    recomputed = rank_memory("ViT-Base", "FULL_SHARD", 8, 8, Conditions())
    assert plain.activations > 3 * recomputed.activations
    assert plain.parameters == recomputed.parameters == pytest.approx(4 * parameters("ViT-Base") / 8, rel=0.02)
    assert rank_memory("ViT-Base", "SHARD_GRAD_OP", 8, 8, Conditions()).unsharded > 2 * plain.unsharded
    accumulated = rank_memory("ViT-Base", "FULL_SHARD", 8, 8, Conditions(), accumulate=True)
    assert accumulated.peak >= recomputed.peak


def test_bytes_sent():
    count = parameters("ViT-Base", "classify")

    def sent(strategy, world=8, precision="bf16", reduce_dtype="bf16", **more):
        how = Conditions("classify", precision, reduce_dtype=reduce_dtype)
        return step_traffic("ViT-Base", strategy, world, how, **more)

    full, kept = sent("FULL_SHARD"), sent("SHARD_GRAD_OP")
    assert full["all_gather"].sent == 2 * kept["all_gather"].sent
    assert full["reduce_scatter"] == kept["reduce_scatter"]
    assert full["reduce_scatter"].sent == pytest.approx(2 * count * 7 / 8, rel=0.02)
    assert (full["reduce_scatter"].calls, full["all_gather"].calls, full["all_reduce"].sent) == (13, 26, 0)
    replicated, ddp = sent("NO_SHARD"), sent("DDP")
    assert replicated["all_gather"].sent == 0
    assert replicated["all_reduce"].sent == ddp["all_reduce"].sent == pytest.approx(2 * 2 * count * 7 / 8)
    hybrid = sent("HYBRID_2GPUs")
    assert (hybrid["all_gather"].group, hybrid["all_reduce"].group) == (2, 4)
    assert hybrid["all_reduce"].sent == pytest.approx(2 * 2 * (count / 2) * 3 / 4, rel=0.02)
    assert sent("FULL_SHARD", micro_batches=3)["all_gather"].sent == 3 * full["all_gather"].sent
    assert sent("FULL_SHARD", precision="fp32")["all_gather"].sent == 2 * full["all_gather"].sent
    for precision, twice in (("bf16", 2), ("fp32", 1)):  # fp32 reduces in fp32 whatever is asked
        for strategy in ("FULL_SHARD", "HYBRID_2GPUs", "DDP"):
            usual, exact = (sent(strategy, precision=precision, reduce_dtype=kind) for kind in ("bf16", "fp32"))
            assert exact["all_gather"] == usual["all_gather"]
            for kind in ("reduce_scatter", "all_reduce"):
                assert exact[kind].payload == twice * usual[kind].payload
                assert exact[kind].calls == usual[kind].calls
    assert all(traffic.sent == 0 for traffic in sent("FULL_SHARD", world=1).values())
    # cutting 768 numbers over 1024 ranks pads each cut to one: more is sent than there is
    assert sent("FULL_SHARD", world=1024)["reduce_scatter"].payload > 1.2 * 2 * count


def test_wrong_questions():
    with pytest.raises(ValueError, match="no workload 'train'"):
        parameters("ViT-Base", "train")
    with pytest.raises(ValueError, match="not a multiple of the patch size 14"):
        rank_memory("ViT-3B", "FULL_SHARD", 8, 32, Conditions(), image_size=225)
