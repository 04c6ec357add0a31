"""Attention in parts against torch's own over the whole, and the fused way against the plain one."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ipr_lite.engine.attention import attend, attend_plainly, join


def three(rows, heads, q, k, size=8):
    torch.manual_seed(q * k)
    return [torch.randn(rows, heads, n, size) for n in (q, k, k)]


@pytest.mark.parametrize("dtype, within", [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_two_parts_joined_are_the_whole(dtype, within):
    query, keys, values = (x.to(dtype) for x in three(3, 2, 5, 40))
    whole = scaled_dot_product_attention(query, keys, values, scale=0.3)
    for one in (attend, attend_plainly):
        parts = [one(query, keys[:, :, s], values[:, :, s], None, 0.3) for s in (slice(0, 33), slice(33, 40))]
        torch.testing.assert_close(join(*parts[0], *parts[1]), whole, atol=within, rtol=within)


def test_fused_and_plain_agree_also_on_who_sees_nothing():
    query, keys, values = three(2, 2, 4, 30)
    mask = torch.zeros(2, 1, 4, 30)
    mask[0, 0, 1, 7:] = mask[1, 0, 2] = -torch.inf
    (one, total), (other, its) = (f(query, keys, values, mask, 1.0) for f in (attend, attend_plainly))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(total, its)
    assert (total[1, :, 2] == -torch.inf).all() and (one[1, :, 2] == 0).all()
    # Joined with a part that it sees, it is that part alone.
    more, more_total = attend(query, keys, values, None, 1.0)
    torch.testing.assert_close(join(one, total, more, more_total)[1, :, 2], more[1, :, 2])
