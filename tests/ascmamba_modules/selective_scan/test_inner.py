"""mamba_inner checks what kernels would read out of bounds.

That it computes what it should is tested with the Mamba modules.
"""

import pytest
import torch

from ascmamba_modules.selective_scan import mamba_inner

CHANNELS, STATES, RANK = 4, 3, 2


def make_inputs():
    return {
        "xz": torch.rand(2, 7, 2 * CHANNELS),
        "conv_weight": torch.rand(CHANNELS, 3),
        "conv_bias": torch.rand(CHANNELS),
        "x_proj_weight": torch.rand(RANK + 2 * STATES, CHANNELS),
        "dt_proj_weight": torch.rand(CHANNELS, RANK),
        "dt_proj_bias": torch.rand(CHANNELS),
        "A": -torch.rand(CHANNELS, STATES),
        "D": torch.rand(CHANNELS),
    }


@pytest.mark.parametrize("name", make_inputs())
@pytest.mark.parametrize("axis", [0, -1])
def test_wrong_shapes_are_refused(axis, name):
    inputs = make_inputs()
    if name == "xz" or (name, axis) == ("conv_weight", -1):
        inputs[name] = inputs[name][0, 0]
    else:
        inputs[name] = torch.cat([inputs[name]] * 2, axis)
    with pytest.raises(ValueError, match="mamba_inner: .* must be"):
        mamba_inner(**inputs)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_without_a_direct_path_is_with_a_weight_of_zero(engine):
    inputs = make_inputs()
    inputs["D"].zero_()
    expected = mamba_inner(**inputs, engine=engine)
    torch.testing.assert_close(
        mamba_inner(**{**inputs, "D": None}, engine=engine), expected
    )


def test_engines_are_named_as_those_of_the_scan():
    with pytest.raises(ValueError, match="Unknown engine 'abacus'"):
        mamba_inner(**make_inputs(), engine="abacus")
