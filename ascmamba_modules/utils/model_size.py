"""Parameters and multiply-adds of a model, and limits on them.

Multiply-adds are those of convolutions and matrix products, as computed (the
steps that a causal convolution computes and drops included), counted by
PyTorch's ``FlopCounterMode`` (two of its operations are one multiply-add), and
of the selective scan, which that counter does not know: each step, channel and
state counts as 4 multiply-adds, whatever the engine: delta A; decay h + drive;
(delta u) B; C h, summed over states.

Not counted: exponentials, norms, activations, gates, pooling, and additions
of feature maps.
"""

from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

# Name: bytes of weights, and multiply-adds per second of audio.
# Source: DCASE Challenge 2022 to 2025, task 1.
LIMITS = {"dcase": (128_000, 30e6)}
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
_SECONDS = 10


def multiply_adds(model, *inputs):
    """Counts the multiply-adds of one forward pass.

    Arguments
    ---------
    model : torch.nn.Module
        The model; its outputs are not used, so that it and the inputs may be
        on the device "meta", where nothing is computed.
    *inputs
        Inputs of the model.

    Returns
    -------
    total : int
        Multiply-adds of all that is counted, see the top of this file.
    scan : int
        Those of them that selective scans take.

    Example
    -------
    >>> multiply_adds(torch.nn.Linear(8, 4), torch.rand(3, 8))
    (96, 0)
    """
    scan = 0

    def counted_scan(u, delta, A, *others, **options):
        nonlocal scan
        batch, _, length = u.shape
        scan += 4 * batch * length * A.numel()
        return torch.empty_like(u)

    # The counter sees neither fused attention nor the fused Transformer
    # layer; the latter is taken only where no gradient is asked for.  Of the
    # scan it would see what an engine computes by matrix products.
    with (
        mock.patch("ascmamba_modules.mamba.choose_engine", lambda *_: "torch"),
        mock.patch(
            "ascmamba_modules.selective_scan.inner.selective_scan", counted_scan
        ),
        sdpa_kernel(SDPBackend.MATH),
        torch.enable_grad(),
        FlopCounterMode(display=False) as counter,
    ):
        model(*inputs)
    return counter.get_total_flops() // 2 + scan, scan


def check_limits(classifier, limits="dcase", precision="fp32"):
    """Holds a trained model against the limits of a challenge.

    All weights count, those of the norms and of place and time included; the
    features do not, as in the challenge.

    Arguments
    ---------
    classifier : ascmamba_modules.inference.SceneClassifier
        The model.
    limits : str
        Name of the limits, "dcase".
    precision : str
        "fp32", "fp16" or "int8": what the weights are stored in.

    Returns
    -------
    fits : bool
        Whether the model keeps both limits.
    text : str
        A line for each limit.
    """
    max_bytes, max_rate = LIMITS[limits]
    n_bytes = BYTES[precision] * sum(
        tensor.numel()
        for name in ("model", "context_encoder")
        if name in classifier.mods
        for tensor in classifier.mods[name].state_dict().values()
    )
    features = classifier.mods["features"]
    wavs = torch.zeros(1, _SECONDS * features.sample_rate)
    model = classifier.mods["model"].cpu()
    total, _ = multiply_adds(model, features.cpu()(wavs))
    rate = total / _SECONDS
    lines = (
        ("weights", n_bytes / 1e3, max_bytes / 1e3, f"kB in {precision}"),
        ("multiply-adds", rate / 1e6, max_rate / 1e6, "M per second of audio"),
    )
    text = "\n".join(
        f"{name}: {value:.1f} {unit}, "
        f"{'within' if value <= limit else 'OVER'} the limit of {limit:g}"
        for name, value, limit, unit in lines
    )
    return n_bytes <= max_bytes and rate <= max_rate, text
