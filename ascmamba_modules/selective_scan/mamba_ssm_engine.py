"""The selective scan by the CUDA kernel of the mamba-ssm package.

Source: https://github.com/state-spaces/mamba (Apache-2.0), installed by the
``cuda`` extra.  mamba-ssm can be present without a kernel that works, so what
counts is whether the kernel runs, not whether the import does.
"""

import functools

import torch


@functools.lru_cache(maxsize=1)
def why_not():
    """Says why the kernel cannot run here.

    Returns
    -------
    str or None
        The reason with its remedy, None if the kernel runs.

    Example
    -------
    >>> reason = why_not()
    >>> reason is None or "GPU" in reason or "mamba-ssm" in reason
    True
    """
    if not torch.cuda.is_available():
        return "no CUDA GPU is visible to PyTorch; use engine='torch'"
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        x = torch.ones(1, 2, 4, device="cuda")
        selective_scan_fn(x, x, -x[0, :, :2], x[:, :2], x[:, :2])
        torch.cuda.synchronize()
    # A broken build fails in many ways (linker, missing symbol, wrong
    # architecture); each means the same here and is reported.
    except Exception as error:
        return (
            f"mamba-ssm's kernel does not run ({error!r}); install it with "
            "pip install 'ascmamba[cuda]' --no-build-isolation"
        )
    return None


def scan_mamba_ssm(
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
):
    """Calls ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn``.

    Arguments and results are those of
    :func:`ascmamba_modules.selective_scan.selective_scan`, without ``engine``.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
    )
