"""Other kernels compute the same up to rounding; which ones a run takes is measured once, and kept."""

import copy
import json
from types import SimpleNamespace

import pytest
import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from geofm_lib import files
from geofm_lib.distributed import sharding
from geofm_lib.jobs import kernels as jobs_kernels
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.model import kernels, mae, vit
from geofm_lib.model.kernels import USUAL, Convolved, Kernels
from geofm_lib.profiling import devices, step_timing
from geofm_lib.settings import PretrainSettings, ProbeSettings, ThroughputSettings

OTHERS = [Kernels("plain", "matmul"), Kernels("fused", "convolution"), Kernels("plain", "convolution")]


def used(model, chosen):
    for stack in sharding.stacks(model):
        kernels.use(stack, chosen)
    return model


def gradients(model, *inputs):
    model.zero_grad()
    loss = model(*inputs)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module", params=["mae", "classify"])
def model(request):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(6, 3, 40, 40, generator=generator)
    if request.param == "mae":
        return mae.build("ViT-Atto", 40, patch_size=8, seed=1), (images, torch.rand(6, 25, generator=generator))
    network = vit.build("ViT-Atto", "benchmark", 40, patch_size=8, num_classes=7, seed=1)
    return step_timing.Classifier(network), (images, torch.arange(6))


@pytest.mark.parametrize("chosen", OTHERS, ids="+".join)
def test_loss_and_gradients_are_those_of_the_usual_kernels(model, chosen):
    model, inputs = model
    names = list(used(model, USUAL).state_dict())
    loss, expected = gradients(model, *inputs)
    own, found = gradients(used(model, chosen), *inputs)
    assert list(model.state_dict()) == names
    assert float((own - loss).abs() / loss) < 1e-6
    length = sum(each.square().sum() for each in expected.values()).sqrt()
    for name, true in expected.items():
        assert (found[name] - true).norm() <= 1e-5 * max(true.norm(), 1e-3 * length), name
    checked = copy.deepcopy(model)
    sharding.apply(checked, "NO_SHARD", world_size=1, device=torch.device("cpu"), activation_checkpointing=True)
    assert torch.equal(gradients(checked, *inputs)[0], own)


@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 5, 7), (2, 3, 4, 7), (1, 1, 7), (0, 7)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolved_layer_takes_what_a_linear_one_takes(shape, bias):
    torch.manual_seed(0)
    layer = Convolved(7, 11, bias)
    x = torch.randn(shape, requires_grad=True)
    for each in (x, torch.randn(*shape[:-1], 14)[..., ::2].requires_grad_()):  # the second has gaps
        found, true = layer(each), F.linear(each, layer.weight, layer.bias)
        assert found.shape == true.shape
        asked = [p for p in (each, layer.weight, layer.bias) if p is not None]
        gradient = torch.randn_like(true)
        pairs = zip(
            torch.autograd.grad(found, asked, gradient), torch.autograd.grad(true, asked, gradient), strict=True
        )
        for own, theirs in ((found, true), *pairs):
            assert (own - theirs).norm() <= 1e-5 * theirs.norm()


def test_shapes_alone_are_enough():
    with FakeTensorMode():
        assert Convolved(8, 16)(torch.zeros(2, 5, 8)).shape == (2, 5, 16)
    assert Convolved(8, 16, device="meta")(torch.zeros(2, 5, 8, device="meta")).shape == (2, 5, 16)


P, C = Kernels("plain", "matmul"), Kernels("fused", "convolution")


@pytest.mark.parametrize(
    "plain, convolution, chosen",
    [
        (1.00, 1.00, USUAL),
        (0.98, 0.99, USUAL),  # less than noise
        (0.90, 1.30, P),
        (1.50, 0.60, C),
        (0.90, 0.60, Kernels("plain", "convolution")),
        (0.98, 0.40, Kernels("plain", "convolution")),  # 0.02 of what is left: 0.4
    ],
)
def test_the_usual_kernels_are_left_for_a_gain_alone(plain, convolution, chosen):
    assert kernels.fastest({USUAL: 1.0, P: plain, C: convolution}) == chosen


def test_only_what_is_not_asked_for_is_measured():
    assert kernels.candidates("auto", "auto") == [USUAL, P, C]
    assert kernels.candidates("plain", "auto") == [P, Kernels("plain", "convolution")]
    assert kernels.candidates("auto", "convolution") == [C, Kernels("plain", "convolution")]
    assert kernels.candidates("fused", "matmul") == [USUAL]


@pytest.fixture
def rank(tmp_path, monkeypatch):
    """Chooses for a folder under settings; says what was written, and how often anything was measured."""
    monkeypatch.setenv("GEOFM_RUNS", str(tmp_path))
    speeds, calls = {USUAL: 4e-3, P: 1e-3, C: 5e-3}, []

    def times(block, batch, tokens, dtype, asked, backward=True):
        calls.append((batch, tokens, dtype, backward))
        return [speeds[each] for each in asked], choose.steady

    monkeypatch.setattr(kernels, "times", times)

    def context(device):
        found = SimpleNamespace(rank=0, world_size=1, is_main=True, device=torch.device(device))
        found.gather, found.broadcast = (lambda value: [value]), (lambda value: value)
        return found

    def choose(name, begun=False, device="cpu", job=PretrainSettings, **asked):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        settings = job(model="ViT-Atto", **asked)
        network = mae.build("ViT-Atto", 32, device="meta", patch_size=8, mask_ratio=settings_ratio(settings))
        before = len(calls)
        jobs_kernels.choose(network, settings, 5, context(device), Folder(folder), begun)
        rows = files.read_json(folder / "kernels.json")["stacks"]
        fused = [stack[0].attn.fused_attn for stack in sharding.stacks(network)]
        assert fused == [row["attention"] == "fused" for row in rows]
        linear = [type(stack[0].mlp.fc1) is Convolved for stack in sharding.stacks(network)]
        assert linear == [row["linear"] == "convolution" for row in rows]
        return [(row["attention"], row["linear"]) for row in rows], calls[before:]

    choose.folder, choose.speeds, choose.calls, choose.context = tmp_path, speeds, calls, context
    choose.steady = True
    return choose


def settings_ratio(settings):
    return getattr(settings, "mask_ratio", 0.75)


def test_each_stack_is_measured_at_its_own_shape_once_on_a_machine(rank):
    assert rank("a", precision="bf16") == ([P, P], [(5, 5, torch.bfloat16, True), (5, 17, torch.bfloat16, True)])
    row = files.read_json(rank.folder / "a" / "kernels.json")["stacks"][1]
    assert row["ms"] == {"fused+matmul": 4.0, "plain+matmul": 1.0, "fused+convolution": 5.0}
    rank.speeds[P] = 9e-3  # what a second measurement would say
    assert rank("b", precision="bf16") == ([P, P], [])
    assert rank("c", precision="fp32")[0] == [USUAL, USUAL]


def test_what_was_measured_on_a_busy_machine_is_neither_believed_nor_kept(rank):
    rank.steady = False
    assert rank("a")[0] == [USUAL, USUAL]  # whatever it says of others
    rank.steady = True
    assert rank("b")[0] == [P, P]
    assert rank("a") == ([USUAL, USUAL], [])  # the run itself keeps its own
    assert kernels._reached_twice([1.5, 1.04, 3.0, 1.0])
    assert not kernels._reached_twice([1.5, 1.06, 3.0, 1.0])


def test_a_run_goes_on_with_its_kernels(rank):
    rank("a")
    rank.speeds[P] = 9e-3
    (rank.folder / "a" / "kernels.json").rename(rank.folder / "kept")
    assert rank("older", begun=True) == ([USUAL, USUAL], [])
    (rank.folder / "kept").rename(rank.folder / "a" / "kernels.json")
    assert rank("a", begun=True) == ([P, P], [])
    assert rank("a", begun=True, linear="convolution") == ([Kernels("plain", "convolution")] * 2, [])
    assert rank("a", begun=True, attention="fused", linear="matmul") == ([USUAL, USUAL], [])


@pytest.mark.parametrize("content", ['{"stacks": [{"stack": "encoder"}]}', "{", '{"stacks": 3}'])
def test_kernels_that_cannot_be_read_are_one_sentence(rank, content):
    (rank.folder / "a").mkdir()
    (rank.folder / "a" / "kernels.json").write_text(content)
    with pytest.raises(files.Damaged, match="kernels.json .*(restore it|cannot be read)"):
        rank("a", begun=True)
    assert rank("a", begun=True, attention="plain", linear="matmul") == ([P, P], [])


def test_what_is_asked_for_is_taken_and_nothing_is_measured(rank):
    assert rank("a", attention="plain", linear="convolution") == ([Kernels("plain", "convolution")] * 2, [])


@pytest.mark.parametrize("how", [{"device": "cuda"}, {"compile": True}], ids=str)
def test_a_gpu_and_compiled_blocks_have_torchs_own_kernels_unmeasured(rank, how, monkeypatch):
    monkeypatch.setattr(jobs_kernels.meters, "device_name", lambda device: "a device")
    assert rank("a", **how) == ([USUAL, USUAL], [])
    assert "only plain CPU blocks" in files.read_json(rank.folder / "a" / "kernels.json")["how"]


def test_a_throughput_run_measures_too_and_old_runs_keep_their_names(rank):
    assert len(rank("a", job=ThroughputSettings)[1]) == 2
    names = {ThroughputSettings(attention=each).name() for each in ("auto", "plain", "fused")}
    assert len(names) == 3
    old = {n: v for n, v in ThroughputSettings().asked().items() if n not in ("attention", "linear")}
    assert ThroughputSettings.model_construct(**json.loads(json.dumps(old))).name() == ThroughputSettings().name()
    assert PretrainSettings(attention="plain").name() == PretrainSettings().name()


def test_encoders_of_a_probe_are_measured_forward_and_all_set(rank):
    (rank.folder / "a").mkdir()
    rank.speeds[C] = 2e-3
    encoders = [vit.build("ViT-Atto", image_size=32, seed=seed) for seed in range(2)]
    context = rank.context("cpu")
    jobs_kernels.choose_of_encoders(encoders, ProbeSettings(), 64, context, Folder(rank.folder / "a"), False)
    record = files.read_json(rank.folder / "a" / "kernels.json")
    (row,) = record["stacks"]
    assert (row["attention"], row["linear"], row["images"], row["tokens"]) == ("plain", "convolution", 64, 17)
    assert rank.calls == [(64, 17, torch.float32, False)]
    assert {type(block.mlp.fc2) for each in encoders for block in each.blocks} == {Convolved}
    theirs = timm.create_model("vit_base_patch16_dinov3", num_classes=0, embed_dim=32, depth=2, num_heads=2)
    jobs_kernels.choose_of_encoders([theirs], ProbeSettings(), 64, context, Folder(rank.folder), False)
    assert len(rank.calls) == 1


def test_a_real_measurement_is_positive_and_leaves_the_generators_alone():
    block = mae.build("ViT-Atto", 32, device="meta", patch_size=8).encoder.blocks[0]
    state = torch.get_rng_state()
    for backward in (True, False):
        found, _ = kernels.times(block, 2, 5, torch.bfloat16, [USUAL, *OTHERS], backward)
        assert len(found) == 4 and min(found) > 0
    assert torch.equal(state, torch.get_rng_state())
    assert type(block.mlp.fc1) is torch.nn.Linear and block.mlp.fc1.weight.is_meta


def test_the_peak_is_that_of_the_faster_library(monkeypatch):
    def slow(a, b):
        torch.randn(2000, 2000).sum()
        return a @ b

    monkeypatch.setitem(devices.PRODUCTS, "cpu", (slow, torch.matmul))
    both = devices.matmul_peak("fp32", torch.device("cpu"), seconds=0.2)
    monkeypatch.setitem(devices.PRODUCTS, "cpu", (slow,))
    assert devices.matmul_peak("fp32", torch.device("cpu"), seconds=0.2) < both
