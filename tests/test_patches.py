"""model/patches.py: patches and back, and positions beside timm's."""

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed

from geofm_lib.model import patches


def test_patches_come_back():
    images = torch.randn(2, 3, 16, 24)
    rows = patches.patchify(images, 8)
    assert torch.equal(rows[0, 1], images[0, :, :8, 8:16].flatten())  # row by row from the top left
    assert torch.equal(patches.unpatchify(rows, 8, 2, 3), images)


def test_positions_tell_rows_from_columns():
    table = patches.sincos_positions(64, 3, 5)
    assert table.shape == (1, 16, 64)
    assert not table[:, 0].any()
    cells = table[0, 1:].reshape(3, 5, 64)
    assert torch.equal(cells[0, 2, :32], cells[0, 4, :32])  # one row: the same first half
    assert torch.equal(cells[0, 2, 32:], cells[2, 2, 32:])  # one column: the same second half
    assert len(torch.unique(table[0, 1:], dim=0)) == 15
    with pytest.raises(ValueError, match="multiple of 4"):
        patches.sincos_positions(6, 2, 2)


@pytest.mark.parametrize("width, rows, columns", [(64, 3, 5), (768, 14, 14), (1792, 37, 37)])
def test_positions_are_timms_in_double_precision(width, rows, columns):
    """timm computes the angles in fp32; ours are those of the published weights (test_parity.py)."""
    theirs = build_sincos2d_pos_embed([rows, columns], width, interleave_sin_cos=True)
    torch.testing.assert_close(patches.sincos_positions(width, rows, columns)[0, 1:], theirs, rtol=0, atol=5e-6)
