"""model/init.py: first weights depend on the seed alone."""

import pytest
import torch
from torch import nn

from geofm_lib.model import vit
from geofm_lib.model.init import initialise, materialise


@pytest.mark.parametrize("family", vit.FAMILIES)
def test_weights_depend_on_the_seed_alone(family):
    first, again, other = (vit.build("ViT-Atto", family, 64, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    same = [n for (n, a), b in zip(first.named_parameters(), other.parameters(), strict=True) if torch.equal(a, b)]
    assert all(n.endswith("bias") or "norm" in n or n == "pos_embed" for n in same), same
    assert all(torch.isfinite(p).all() for p in first.parameters())
    # a wrapper's prefix in the names (checkpointing, compile) changes nothing
    wrapped = vit.build("ViT-Atto", family, 64, seed=5)
    wrapped.blocks[0] = nn.ModuleDict({"_checkpoint_wrapped_module": wrapped.blocks[0]})
    initialise(wrapped, 1)
    inner = wrapped.blocks[0]["_checkpoint_wrapped_module"]
    assert torch.equal(inner.mlp.fc1.weight, first.blocks[0].mlp.fc1.weight)


def test_materialising_from_meta_gives_the_same_weights():
    direct, late = vit.build("ViT-Atto", image_size=64, seed=1), vit.build("ViT-Atto", image_size=64, device="meta")
    with pytest.raises(ValueError, match="call to_empty"):
        initialise(late)
    materialise(late, "cpu", seed=1)
    assert all(torch.equal(a, b) for a, b in zip(direct.state_dict().values(), late.state_dict().values(), strict=True))
    assert not late.pos_embed.requires_grad
