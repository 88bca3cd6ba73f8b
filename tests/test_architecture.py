"""model/described.py and runs/architecture.py: somebody else's ViT in a plan, by its name, function or token count."""

import pytest
import timm
import torch
from timm.layers import set_fused_attn

from geofm_lib.catalog.models import of_network
from geofm_lib.model import described
from geofm_lib.planning.conditions import Conditions
from geofm_lib.planning.flops import flops
from geofm_lib.planning.memory import rank_memory
from geofm_lib.planning.planner import predict
from geofm_lib.planning.weights import describe, parameters
from geofm_lib.runs import architecture

# name -> patches, tokens before them; GFLOP of the forward pass are timm's published GMACs where it has them (x 2)
NETWORKS = {
    "vit_base_patch16_224": (196, 1, 35.1),  # 17.58 GMACs
    "vit_so400m_patch14_siglip_224": (256, 0, None),
    "deit3_small_patch16_224": (196, 1, 9.2),  # 4.61 GMACs
    "naflexvit_base_patch16_gap": (576, 4, None),
    "eva02_tiny_patch14_224": (256, 1, None),  # a gated MLP
}


@pytest.fixture(scope="module", autouse=True)
def plain_attention():
    set_fused_attn(False)
    yield
    set_fused_attn(True)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_timm_vit_has_timms_own_parameters(name):
    row = of_network(name, described.facts(name))
    patches, prefix, gflop = NETWORKS[name]
    with torch.device("meta"):
        theirs = sum(each.numel() for each in timm.create_model(name).parameters())
    assert parameters(row, "classify") == theirs
    assert (row.built.patches, row.built.prefix) == (patches, prefix)
    if gflop:
        assert flops(row, "classify").forward / 1e9 == pytest.approx(gflop, rel=0.01)


def test_base_is_our_base():
    """MAE on timm's ViT-Base is MAE on ours: the same weights but for timm's trained positions, the same operations."""
    row = of_network("theirs", described.facts("vit_base_patch16_224"))
    assert parameters(row) == parameters("ViT-Base")
    assert flops(row) == flops("ViT-Base")
    how = Conditions()
    theirs, ours = (rank_memory(each, "FULL_SHARD", 8, 32, how).peak for each in (row, "ViT-Base"))
    assert theirs == pytest.approx(ours, rel=0.01)
    assert predict(row, "FULL_SHARD", "frontier", 1, 32)["step_s"] == pytest.approx(
        predict("ViT-Base", "FULL_SHARD", "frontier", 1, 32)["step_s"], rel=0.01
    )


def test_tokens_take_the_place_of_an_image_size():
    """1,024 patches cost what an image of 512 pixels in patches of 16 does, and twice the tokens more than twice."""
    assert flops("ViT-Base", tokens=1024) == flops("ViT-Base", image_size=512)
    assert describe("ViT-Base", "classify", tokens=300).tokens == 301
    half, whole = (predict("ViT-Base", "NO_SHARD", "8xA100", 1, 32, tokens=n)["compute_s"] for n in (1024, 2048))
    assert whole > 2 * half


PLAIN = """
import torch
class Plain(torch.nn.Module):
    def __init__(self, used=True, named=False):
        super().__init__()
        self.used, self.named = used, named
        self.patches = torch.nn.Conv2d(3, 64, 16, 16)
        block = torch.nn.TransformerEncoderLayer(64, 2, 96, batch_first=True)
        self.blocks = torch.nn.ModuleList([block, torch.nn.TransformerEncoderLayer(64, 2, 96, batch_first=True)])
    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        for block in self.blocks if self.used else ():
            x = block(src=x) if self.named else block(x)
        return x
def torchs():
    return Plain()
def by_name():
    return Plain(named=True)
def unused():
    return Plain(used=False)
"""
OWN = {
    "own_network:none": "cannot be built: AttributeError",
    "own_network:leave": "cannot be built: SystemExit: 3",
    "own_network:unused": "has 'blocks' and does not run them",
    "own_network.py:small": "names a file; write the module: own_network:small.",
    "vit_bse_patch16_224": "did you mean 'vit_base_patch16_224'?",
    "so400m": "did you mean 'vit_so400m",
}


def test_a_size_that_patches_do_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(architecture, "described", lambda names, size: {
        each: of_network(each, described.facts(each, size)) for each in names})  # fmt: skip
    with pytest.raises(
        ValueError, match="225 pixels is not a multiple of the patch size 16; use for example 224 or 240"
    ):
        architecture.model("vit_tiny_patch16_224", 225)
    assert architecture.model("vit_tiny_patch16_224", 240).built.patches == 225


def test_a_function_is_a_model_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_network.py").write_text(
        "import timm\ndef small():\n    return timm.create_model('vit_small_patch16_224', depth=4)\n"
        "def bands():\n    return timm.create_model('vit_tiny_patch16_224', in_chans=10, depth=1, img_size=32)\n"
        "def number():\n    return 3\n"
        "def leave():\n    raise SystemExit(3)\n" + PLAIN
    )
    found = described.facts("own_network:small")
    assert (found["depth"], found["width"], found["patches"]) == (4, 384, 196)
    bands = of_network("ten", described.facts("own_network:bands", 32))
    assert (bands.built.channels, describe(bands).patch_numbers) == (10, 10 * 16**2)
    with pytest.raises(ValueError, match="returned int, no torch.nn.Module"):
        described.facts("own_network:number")
    for name, said in OWN.items():
        with pytest.raises(ValueError, match=said):
            described.facts(name)
    own = described.facts("own_network:torchs")
    assert (own["depth"], own["width"], own["patches"], own["mlp_dim"], own["heads"]) == (2, 64, 196, 96, 2)
    assert described.facts("own_network:by_name") == own | {"source": "own_network:by_name"}


@pytest.mark.parametrize(
    "name, said",
    {
        "swin_tiny_patch4_window7_224": "is none of timm.s plain ViTs",
        "hiera_tiny_224": "not all of one size",
        "vit_tiny_r_s16_p8_224": "is no plain ViT",
        "vit_huge_nonsense": "neither a row of catalog/models.py nor a name of timm's",
    }.items(),
)
def test_what_is_no_plain_vit_is_refused_in_a_sentence(name, said):
    with pytest.raises(ValueError, match=said):
        described.facts(name)


@pytest.mark.long
def test_no_weight_gets_memory():
    """A network of 1.1 billion parameters is read on the meta device."""
    row = of_network("giant", described.facts("vit_giant_patch14_dinov2", 224))
    assert (row.built.patches, row.width, row.depth) == (256, 1536, 40)
    assert parameters(row, "classify") > 1.1e9


@pytest.mark.long
def test_the_notebooks_side_asks_a_process_of_its_own():
    found = architecture.described(["ViT-Base", "vit_tiny_patch16_224", "resnet18"])
    assert found["ViT-Base"].name == "ViT-Base"
    assert parameters(found["vit_tiny_patch16_224"], "classify") == 5_717_416
    assert "none of timm's plain ViTs" in found["resnet18"]
    with pytest.raises(ValueError, match="did you mean 'ViT-3B'"):
        architecture.model("ViT-3")
