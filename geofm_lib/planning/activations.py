"""Bytes of activations: what blocks keep of a forward pass, and what one needs on top in its backward pass."""

from geofm_lib.planning.weights import Shape


def block_activations(width: int, mlp_dim: int, heads: int, tokens: int, compute: int, gated: bool) -> int:
    """Bytes that one block keeps of one image for its backward pass, its input included (fused attention).

    A plain block keeps of each token its input, both norms' outputs, queries, keys, values, the attention's output
    and the sum after it, and the MLP's inner layer twice. The benchmark's block has a norm after each branch instead,
    norms on queries and keys, and keeps the attention's output twice. A test compares both with autograd.
    """
    numbers = 11 * width + 4 * mlp_dim if gated else 8 * width + 2 * mlp_dim  # a token
    statistics = 4 + heads * (5 if gated else 1)  # fp32: of the norms, and the softmax's normaliser
    return tokens * (numbers * compute + statistics * 4)


def activations(s: Shape, batch: int, compute: int, checkpointing: bool) -> tuple[list[int], list[int]]:
    """(kept, needed), bytes for ``batch`` images, ``compute`` of them a number.

    kept: through the forward pass, by each block and, last, outside the blocks. needed: by each block on top, at the
    widest moment of its backward pass. That is in its MLP: the output and the last product's input are gone, the
    gradients at both sides of the activation are there, and the residual branch's.
    """
    gated = s.workload == "classify"
    row = s.row
    stacks = [(row.depth, row.width, row.gated_mlp_dim if gated else row.mlp_dim, row.heads, s.visible + 1)]
    if s.decoder:
        narrow, depth, heads = s.decoder
        stacks.append((depth, narrow, 4 * narrow, heads, s.patches + 1))
    kept, needed = [], []
    for depth, wide, mlp_dim, heads, tokens in stacks:
        saved = block_activations(wide, mlp_dim, heads, tokens, compute, gated)
        entry = wide * tokens * compute
        gradients = tokens * compute * (2 * mlp_dim if gated else wide + mlp_dim)
        kept += depth * [batch * (entry if checkpointing else saved)]
        needed += depth * [batch * (gradients + (saved - entry if checkpointing else 0))]
    return [*kept, batch * _outside(s, compute)], needed


def _outside(s: Shape, compute: int) -> int:
    """Bytes per image kept outside the blocks while they run backward: images (fp32), patches, inputs of norms.

    What the loss kept is gone by then.
    """
    width, pixels = s.row.width, s.patches * s.patch_numbers
    if s.workload == "classify":
        return 4 * pixels + compute * (2 * pixels + (2 * s.patches + 1) * width)
    return 4 * pixels + compute * (pixels + (s.visible + 1) * width)
