"""The norm whose sums are fp32 in bf16 too."""

import copy

import pytest
import torch
from timm.layers import LayerNorm as Usual

from geofm_lib.model.norm import NUMBERS, LayerNorm

ROWS, WIDTH = 4352, 48


@pytest.fixture(params=[(1, 1), (3, 7), (17, 256), (2, NUMBERS // WIDTH + 1)], ids=str)
def case(request):
    """Norm, tokens, and a gradient of mean 0.01: what a sum in bf16 loses."""
    generator = torch.Generator().manual_seed(3)
    norm = LayerNorm(WIDTH)
    torch.nn.init.normal_(norm.weight, 1, 0.2, generator=generator)
    torch.nn.init.normal_(norm.bias, 0, 0.2, generator=generator)
    shape = (*request.param, WIDTH)
    return norm, torch.randn(shape, generator=generator), 0.01 + 0.01 * torch.randn(shape, generator=generator)


def gradients(norm, tokens, gradient, precision=torch.float32):
    norm, tokens = copy.deepcopy(norm), tokens.detach().to(precision).requires_grad_()
    out = norm(tokens)
    out.backward(gradient.to(out.dtype))
    return out.detach(), tokens.grad, norm.weight.grad, norm.bias.grad


def test_in_fp32_it_is_timms_to_the_bit(case):
    norm, tokens, gradient = case
    usual = Usual(WIDTH)
    usual.load_state_dict(norm.state_dict())
    for own, theirs in zip(gradients(norm, tokens, gradient), gradients(usual, tokens, gradient), strict=True):
        assert torch.equal(own, theirs)


def test_in_bf16_only_what_goes_in_and_out_is_rounded(case):
    norm, tokens, gradient = case
    low, high = (each.bfloat16() for each in (tokens, gradient))
    found = gradients(norm, low, high, torch.bfloat16)
    expected = gradients(norm, low.float(), high.float())
    assert [each.dtype for each in found] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for own, true, allowed in zip(found, expected, (2**-8, 2**-8, 1e-5, 1e-6), strict=True):
        assert (own.float() - true).norm() <= allowed * true.norm()


def test_a_constant_gradient_over_many_tokens_is_added_up():
    norm, tokens = LayerNorm(WIDTH), torch.randn(ROWS, WIDTH)
    gradient = torch.full((ROWS, WIDTH), 0.01)
    summed = gradients(norm, tokens, gradient, torch.bfloat16)[3]
    assert summed / (ROWS * gradient.bfloat16().float().mean()) == pytest.approx(torch.ones(WIDTH), rel=1e-5)


def test_weights_of_bf16_get_the_sum_rounded_once(case):
    """As inside fully_shard, which hands out weights of bf16."""
    norm, tokens, gradient = case
    low = copy.deepcopy(norm).bfloat16()
    found = gradients(low, tokens, gradient, torch.bfloat16)
    expected = gradients(low.float(), tokens.bfloat16().float(), gradient.bfloat16().float())
    assert found[2].dtype == torch.bfloat16
    for own, true in zip(found[2:], expected[2:], strict=True):
        assert (own.float() - true).norm() <= 2**-8 * true.norm()


def test_no_fp32_tokens_are_kept_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        LayerNorm(WIDTH)(torch.randn(ROWS, WIDTH, dtype=torch.bfloat16, requires_grad=True))
    assert max(t.nbytes for t in kept) == 2 * ROWS * WIDTH


def test_recomputed_it_gives_the_same_bits(case):
    norm, tokens, gradient = case
    plain = gradients(norm, tokens, gradient, torch.bfloat16)
    low = tokens.bfloat16().requires_grad_()
    torch.utils.checkpoint.checkpoint(norm, low, use_reentrant=False).backward(gradient.bfloat16())
    assert torch.equal(low.grad, plain[1])
    assert torch.equal(norm.weight.grad, plain[2])


@pytest.mark.long
def test_compiled_it_adds_in_fp32_too():
    torch.manual_seed(0)
    norm, tokens = LayerNorm(WIDTH), torch.randn(ROWS, WIDTH).bfloat16().requires_grad_()
    gradient = (0.01 + 0.01 * torch.randn(ROWS, WIDTH)).bfloat16()
    expected = gradients(norm, tokens.float(), gradient.float())
    torch.compile(norm)(tokens).backward(gradient)
    assert (tokens.grad.float() - expected[1]).norm() <= 2**-8 * expected[1].norm()
    for own, true in ((norm.weight.grad, expected[2]), (norm.bias.grad, expected[3])):
        assert (own - true).norm() <= 1e-5 * true.norm()
