"""What is handed to mamba-ssm's kernel, checked without a GPU."""

import pytest
import torch

from ascmamba_modules.selective_scan import selective_scan
from ascmamba_modules.selective_scan.mamba_ssm_engine import (
    fit_to_kernel,
    unsupported_reason,
)

CHANNELS, STATE, LENGTH = 12, 3, 5
SHAPES = {
    "constant": (CHANNELS, STATE),
    **{g: (2, g, STATE, LENGTH) for g in (1, 2, 3)},
}


@pytest.mark.parametrize("b", SHAPES)
@pytest.mark.parametrize("c", SHAPES)
def test_inputs_meet_the_kernels_demands_and_mean_the_same(
    b, c, mamba_ssm_reference
):
    u, delta, z = torch.randn(3, 2, CHANNELS, LENGTH).unbind()
    A = -torch.rand(STATE, CHANNELS).t()
    B, C = torch.randn(SHAPES[b]), torch.randn(SHAPES[c])
    D, bias = torch.randn(2, CHANNELS, 2)[..., 0]
    fitted = fit_to_kernel(u, delta.double(), A, B, C, D, z, bias)
    for name, tensor in zip(
        ["A", "D", "delta_bias"], (*fitted[2:6:3], fitted[7])
    ):
        assert tensor.is_contiguous() and tensor.dtype == torch.float32, name
    groups = [x.shape[1] for x in fitted[3:5] if x.dim() == 4]
    assert len(set(groups)) <= 1
    assert all(g == 1 for g in groups) or len(groups) == 2
    expected = mamba_ssm_reference.selective_scan_ref(
        *fitted, delta_softplus=True
    )
    y = selective_scan(
        u, delta, A, B, C, D, z, bias, delta_softplus=True, engine="torch"
    )
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_what_the_kernel_cannot_take_is_named():
    u, A = torch.rand(1, 4, 7), torch.rand(4, 256)
    assert unsupported_reason(u, A) is None
    assert "float64" in unsupported_reason(u.double(), A)
    assert "not 257" in unsupported_reason(u, torch.rand(4, 257))
