"""Compares the kernels in Triton with PyTorch before they are trusted.

Triton compiles them anew for each kind of card, driver and version, of which
nobody has tried all.  Wrong gradients would spoil a training without a word.
"""

import functools

import torch
import torch.nn.functional as F

from ascmamba_modules.selective_scan.torch_engine import scan_torch
from ascmamba_modules.selective_scan.triton.engine import missing_reason
from ascmamba_modules.selective_scan.triton.mamba import mamba_inner_triton

# Far from rounding, of TensorFloat-32 too, and from what a mistake makes.
_TOLERANCE = 0.02


@functools.lru_cache(maxsize=1)
def unavailable_reason():
    """Says why the kernels cannot be used on a GPU here.

    Returns
    -------
    str or None
        The reason with its remedy, None if they run and give what PyTorch
        gives, forward and backward.

    Example
    -------
    >>> reason = unavailable_reason()
    >>> reason is None or "engine='torch'" in reason
    True
    """
    if not torch.cuda.is_available():
        return "no CUDA GPU is visible to PyTorch; use engine='torch'"
    reason = missing_reason()
    if reason:
        return reason
    try:
        error = largest_error("cuda")
    # Compiler, driver and card can fail in many ways; each means the same
    # here and is reported.
    except Exception as problem:
        return (
            f"its kernels do not run ({problem!r}); they need a compute "
            "capability of 7.0 or more and a C compiler; else use "
            "engine='torch'"
        )
    if not error < _TOLERANCE:
        return (
            "its kernels give other results than PyTorch on this GPU "
            f"(relative error {error:.2g}); report it, and use engine='torch'"
        )
    return None


def largest_error(device, channels=40, states=16, steps=70):
    """Compares a bidirectional pair of Mamba blocks, with all gradients.

    The sizes are such that there are several programs, chunks and an
    incomplete one of each.

    Arguments
    ---------
    device : str
        "cuda", or "cpu" where the kernels are interpreted.
    channels, states, steps : int
        Sizes of the blocks and of their sequences.

    Returns
    -------
    float
        Largest difference of an output or gradient, relative to the largest
        value of the same tensor; NaN if one is not a number.

    Example
    -------
    >>> if torch.cuda.is_available():
    ...     error = largest_error("cuda")
    """
    with (
        # Whatever the caller has set.
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(torch.device(device).type, enabled=False),
    ):
        return _largest_error(device, channels, states, steps)


def _largest_error(device, channels, states, steps):
    rank = 2
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape):
        return torch.randn(
            shape, generator=generator, dtype=torch.float32, device="cpu"
        )

    inputs = (
        draw(2, steps, 2, 2 * channels),  # xz
        draw(2, channels, 4),  # convolution
        draw(2, channels),
        draw(2, rank + 2 * states, channels) / channels**0.5,
        draw(2, channels, rank),  # step sizes
        draw(2, channels),
        -draw(2, channels, states).exp(),  # A
        draw(2, channels),  # D
    )
    inputs = [x.to(device).requires_grad_() for x in inputs]
    factors = draw(2, steps, 2, channels).to(device)
    results = []
    for inner in (mamba_inner_triton, _inner_in_pytorch):
        y = inner(*inputs)
        gradients = torch.autograd.grad((y * factors).sum(), inputs)
        results.append([y.detach(), *gradients])
    errors = [
        (actual - expected).abs().max() / expected.abs().max()
        for actual, expected in zip(*results)
    ]
    return torch.stack(errors).max().item()


def _inner_in_pytorch(
    xz,
    conv_weight,
    conv_bias,
    x_proj_weight,
    dt_proj_weight,
    dt_proj_bias,
    A,
    D,
):
    """As mamba_inner_triton, the second direction in reverse."""
    rank, states = dt_proj_weight.shape[2], A.shape[2]
    width = conv_weight.shape[2]
    outputs = []
    for k in range(2):
        flip = (2,) if k else ()
        x, z = xz[:, :, k].transpose(1, 2).flip(flip).chunk(2, 1)  # (B, E, L)
        windows = F.pad(x, (width - 1, 0)).unfold(2, width, 1)
        u = (windows * conv_weight[k].unsqueeze(1)).sum(-1)
        u = F.silu(u + conv_bias[k].unsqueeze(1))
        step, B, C = (x_proj_weight[k] @ u).split([rank, states, states], 1)
        delta = dt_proj_weight[k] @ step + dt_proj_bias[k].unsqueeze(1)
        y, _ = scan_torch(
            u, F.softplus(delta), A[k], B.unsqueeze(1), C.unsqueeze(1)
        )
        y = (y + D[k].unsqueeze(1) * u) * F.silu(z)
        outputs.append(y.flip(flip).transpose(1, 2))
    return torch.stack(outputs, 2)  # (B, L, K, E)
