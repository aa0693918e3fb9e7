"""Every engine of the selective scan computes the recurrence of Mamba."""

import logging
import math

import pytest
import torch

from ascmamba_modules.selective_scan import (
    engine_status,
    interface,
    selective_scan,
    torch_engine,
)

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA GPU is visible"
    ),
]
ENGINES = [
    pytest.param("torch", "cpu", id="torch"),
    pytest.param("torch", "cuda", marks=on_gpu, id="torch-cuda"),
    pytest.param("mamba_ssm", "cuda", marks=on_gpu, id="mamba_ssm"),
]

# Options of make_inputs, with settings of the chunks and of the softplus.
CASES = [
    pytest.param({}, id="plain"),
    pytest.param({"sizes": (2, 5, 3, 37)}, id="odd sizes"),
    pytest.param({"sizes": (2, 4, 3, 1)}, id="one step"),
    pytest.param({"sizes": (2, 4, 1, 20)}, id="one state"),
    pytest.param({"sizes": (1, 1, 1, 1)}, id="one of each"),
    pytest.param({"sizes": (1, 3, 4, 150)}, id="longer than a chunk"),
    pytest.param({"max_chunk": 7}, id="chunks of 7"),
    pytest.param({"max_chunk": 5}, id="whole number of chunks"),
    pytest.param({"elements": 100}, id="chunks of little memory"),
    pytest.param({"elements": 1}, id="chunks of one step"),
    pytest.param({"B": "grouped", "C": "grouped"}, id="groups"),
    pytest.param({"B": "grouped", "max_chunk": 7}, id="groups in B alone"),
    pytest.param({"C": "grouped"}, id="groups in C alone"),
    pytest.param(
        {"B": "grouped", "C": "each", "sizes": (2, 6, 3, 20)},
        id="unequal groups",
    ),
    pytest.param({"B": "constant", "C": "constant"}, id="constant B and C"),
    pytest.param({"B": "constant", "max_chunk": 7}, id="constant B"),
    pytest.param({"C": "constant", "max_chunk": 7}, id="constant C"),
    pytest.param({"B": "constant", "C": "grouped"}, id="constant and groups"),
    pytest.param({"strided": True}, id="strided"),
    pytest.param(
        {"strided": True, "B": "grouped", "C": "constant"},
        id="strided groups and constant",
    ),
    pytest.param({"without": ("z",)}, id="no z"),
    pytest.param({"without": ("D",)}, id="no D"),
    pytest.param({"without": ("delta_bias",)}, id="no delta_bias"),
    pytest.param({"without": ("D", "z", "delta_bias")}, id="bare"),
    pytest.param({"softplus": False}, id="no softplus"),
    pytest.param(
        {"softplus": False, "without": ("D", "z", "delta_bias")},
        id="bare, no softplus",
    ),
]


def make_inputs(
    sizes=(2, 4, 3, 20),
    B="shared",
    C="shared",
    without=(),
    strided=False,
    softplus=True,
    dtype=torch.float32,
    **_,
):
    """Inputs of the scan by name, None for those that are left out."""
    batch, channels, state, length = sizes
    projection = {
        "shared": (batch, state, length),
        "grouped": (batch, 2, state, length),
        "each": (batch, 3, state, length),
        "constant": (channels, state),
    }
    sequence = (batch, channels, length)
    inputs = {
        "u": torch.randn(sequence),
        "delta": torch.randn(sequence),
        "A": -3.0 * torch.rand(channels, state) - 0.1,
        "B": torch.randn(projection[B]),
        "C": torch.randn(projection[C]),
        "D": torch.randn(channels),
        "z": torch.randn(sequence),
        "delta_bias": torch.randn(channels),
    }
    if not softplus:  # step sizes are positive, with and without it
        inputs["delta"] = torch.rand(sequence)
        inputs["delta_bias"] = torch.rand(channels)
    for name in without:
        inputs[name] = None
    for name, x in inputs.items():
        if x is not None:
            x = _strided(x) if strided else x
            inputs[name] = x.to(dtype).requires_grad_()
    return inputs


def _strided(x):
    """The values of x as every second element of a transposed tensor."""
    buffer = torch.zeros(*reversed(x.shape), 2)
    view = buffer[..., 0].permute(*reversed(range(x.dim())))
    view.copy_(x)
    assert x.numel() == 1 or not view.is_contiguous()
    return view


def loop(u, delta, A, B, C, D, z, delta_bias, softplus):
    """The recurrence as written in the paper, one step after another."""
    batch, channels, length = u.shape

    def of_each_channel(projection):  # -> (batch, channels, state, length)
        if projection.dim() == 2:
            return projection[None, :, :, None].expand(batch, -1, -1, length)
        if projection.dim() == 3:
            projection = projection.unsqueeze(1)
        return torch.stack(
            [
                projection[:, channel * projection.shape[1] // channels]
                for channel in range(channels)
            ],
            dim=1,
        )

    B, C = of_each_channel(B), of_each_channel(C)
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if softplus:
        delta = torch.log(1 + torch.exp(delta))
    state = torch.zeros(batch, channels, A.shape[1], dtype=u.dtype)
    outputs = []
    for t in range(length):
        step = delta[:, :, t, None]
        state = torch.exp(step * A) * state
        state = state + step * B[..., t] * u[:, :, t, None]
        y = (C[..., t] * state).sum(-1)
        if D is not None:
            y = y + D * u[:, :, t]
        if z is not None:
            y = y * z[:, :, t] / (1 + torch.exp(-z[:, :, t]))
        outputs.append(y)
    return torch.stack(outputs, dim=2), state


def run_with_gradients(scan, inputs, through_state):
    """Output, last state, and the gradient of each input, by name."""
    y, last_state = scan(inputs)
    generator = torch.Generator().manual_seed(1)
    y_weight = torch.randn(y.shape, generator=generator)
    state_weight = torch.randn(last_state.shape, generator=generator)
    loss = (y * y_weight.to(y)).sum()
    if through_state:
        loss = loss + (last_state * state_weight.to(last_state)).sum()
    given = {name: x for name, x in inputs.items() if x is not None}
    gradients = torch.autograd.grad(loss, list(given.values()))
    results = {"y": y, "last_state": last_state}
    for (name, x), gradient in zip(given.items(), gradients):
        assert gradient.shape == x.shape and gradient.dtype == x.dtype
        results[f"gradient of {name}"] = gradient
    return {name: x.detach().cpu().double() for name, x in results.items()}


def assert_equal_results(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        torch.testing.assert_close(
            actual[name],
            x,
            rtol=tolerance,
            atol=tolerance * max(1.0, x.abs().max().item()),
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.fixture
def set_chunks(monkeypatch):
    def set_them(case):
        if "max_chunk" in case:
            monkeypatch.setattr(torch_engine, "_MAX_CHUNK", case["max_chunk"])
        if "elements" in case:
            budget = dict.fromkeys(("cpu", "cuda"), case["elements"])
            monkeypatch.setattr(torch_engine, "_CHUNK_ELEMENTS", budget)

    return set_them


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine, device", ENGINES)
def test_equals_the_recurrence_in_float64(engine, device, case, set_chunks):
    if engine == "mamba_ssm":
        pytest.importorskip("selective_scan_cuda", exc_type=ImportError)
    set_chunks(case)
    softplus = case.get("softplus", True)
    inputs = make_inputs(**case)
    exact = {
        name: x if x is None else x.detach().double().requires_grad_()
        for name, x in inputs.items()
    }

    def scan(tensors):
        tensors = [x if x is None else x.to(device) for x in tensors.values()]
        return selective_scan(
            *tensors,
            delta_softplus=softplus,
            return_last_state=True,
            engine=engine,
        )

    # The kernel of mamba-ssm has no gradient through the last state.
    through_state = engine != "mamba_ssm"
    assert_equal_results(
        run_with_gradients(scan, inputs, through_state),
        run_with_gradients(
            lambda tensors: loop(*tensors.values(), softplus),
            exact,
            through_state,
        ),
        tolerance=1e-5 if engine == "torch" else 1e-3,
    )


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_of_mamba_ssm(
    case, set_chunks, mamba_ssm_reference
):
    set_chunks(case)
    softplus = case.get("softplus", True)
    inputs = make_inputs(**case)

    def scan_with(function):
        return lambda tensors: function(
            *tensors.values(), delta_softplus=softplus, return_last_state=True
        )

    assert_equal_results(
        run_with_gradients(scan_with(selective_scan), inputs, True),
        run_with_gradients(
            scan_with(mamba_ssm_reference.selective_scan_ref), inputs, True
        ),
        tolerance=1e-5,
    )


@pytest.mark.parametrize("projection", ["shared", "grouped", "constant"])
def test_gradients_equal_finite_differences(projection, set_chunks):
    set_chunks({"max_chunk": 2})
    inputs = make_inputs(
        sizes=(1, 2, 2, 5), B=projection, C=projection, dtype=torch.float64
    )
    assert torch.autograd.gradcheck(
        lambda *tensors: selective_scan(
            *tensors, delta_softplus=True, return_last_state=True
        ),
        tuple(inputs.values()),
    )


def test_last_state_comes_only_if_asked_for():
    inputs = make_inputs()
    y = selective_scan(**inputs)
    assert isinstance(y, torch.Tensor)
    torch.testing.assert_close(
        y, selective_scan(**inputs, return_last_state=True)[0]
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_float32_state(dtype):
    inputs = make_inputs(sizes=(2, 4, 8, 100))
    for name in ("u", "delta", "B", "C", "z"):
        inputs[name] = inputs[name].detach().to(dtype).requires_grad_()
    y, last_state = selective_scan(
        **inputs, delta_softplus=True, return_last_state=True
    )
    assert y.dtype == dtype
    assert last_state.dtype == torch.float32

    full = {name: x.detach().float() for name, x in inputs.items()}
    expected, expected_state = selective_scan(
        **full, delta_softplus=True, return_last_state=True
    )
    # No error but that of rounding the output once.
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(
        y.float(), expected, rtol=rounding, atol=rounding / 100
    )
    torch.testing.assert_close(last_state, expected_state)

    gradients = torch.autograd.grad(y.float().sum(), list(inputs.values()))
    for x, gradient in zip(inputs.values(), gradients):
        assert gradient.dtype == x.dtype
        assert gradient.isfinite().all()


@pytest.mark.parametrize("B", ["shared", "constant"])
def test_autocast_costs_no_precision(B):
    inputs = make_inputs(sizes=(2, 8, 8, 100), B=B)

    def scan(tensors):
        return selective_scan(
            **tensors, delta_softplus=True, return_last_state=True
        )

    expected = run_with_gradients(scan, inputs, True)
    with torch.autocast("cpu", torch.bfloat16):
        actual = run_with_gradients(scan, inputs, True)
    assert_equal_results(actual, expected, tolerance=1e-6)


def constant_inputs(A, length=5000):
    """Step size 1, so that the state is a sum of B u under decay exp(A)."""
    u = torch.randn(1, 2, length, requires_grad=True)
    delta = torch.ones(1, 2, length, requires_grad=True)
    A = torch.full((2, 3), A, requires_grad=True)
    B, C = torch.randn(2, 1, 3, length).requires_grad_().unbind()
    return u, delta, A, B, C


@pytest.mark.parametrize("decay", [-1e4, 0.0], ids=["forgets", "remembers"])
def test_long_sequences_stay_finite_and_exact(decay):
    u, delta, A, B, C = constant_inputs(decay)
    y = selective_scan(u, delta, A, B, C)
    # (batch, channels, state, length)
    state = (B.unsqueeze(1) * u.unsqueeze(2)).double()
    if decay == 0.0:
        state = state.cumsum(-1)
    expected = (state * C.unsqueeze(1)).sum(2)
    torch.testing.assert_close(
        y.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item()
    )
    for gradient in torch.autograd.grad(y.sum(), (u, delta, A, B, C)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"u": torch.rand(4, 20)}, "u must be"),
        ({"u": torch.rand(2, 4, 0)}, "length"),
        ({"delta": torch.rand(2, 4, 19)}, "delta must be"),
        ({"A": -torch.rand(5, 3)}, "A must be"),
        ({"A": -torch.rand(4)}, "A must be"),
        ({"B": torch.rand(2, 2, 20)}, "B must be"),
        ({"B": torch.rand(20)}, "B must be"),
        ({"C": torch.rand(2, 3, 19)}, "C must be"),
        ({"C": torch.rand(4, 2)}, "C must be"),
        ({"B": torch.rand(2, 3, 3, 20)}, "groups of B"),
        ({"C": torch.rand(2, 0, 3, 20)}, "groups of C"),
        ({"D": torch.rand(5)}, "D must be"),
        ({"z": torch.rand(2, 5, 20)}, "z must be"),
        ({"delta_bias": torch.rand(4, 1)}, "delta_bias must be"),
        ({"A": torch.rand(4, 3, dtype=torch.cfloat)}, "must be real"),
        ({"engine": "abacus"}, "Unknown engine 'abacus'.*torch"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**make_inputs(), **wrong})


def test_engine_that_cannot_run_is_refused_with_reason_and_remedy():
    reason = engine_status("cpu")["mamba_ssm"]
    with pytest.raises(RuntimeError, match="'mamba_ssm'.*CUDA GPU.*move"):
        selective_scan(**make_inputs(), engine="mamba_ssm")
    with pytest.raises(RuntimeError) as raised:
        selective_scan(**make_inputs(), engine="mamba_ssm")
    assert reason in str(raised.value)


def test_auto_logs_its_choice_once(monkeypatch, caplog):
    monkeypatch.setattr(interface, "_logged_choices", set())
    with caplog.at_level(logging.INFO, logger=interface.__name__):
        for _ in range(3):
            selective_scan(**make_inputs())
        selective_scan(**make_inputs(), engine="torch")
    records = [r for r in caplog.records if r.name == interface.__name__]
    assert len(records) == 1
    assert "engine 'torch'" in records[0].getMessage()
    assert engine_status()["mamba_ssm"] in records[0].getMessage()


def test_states_are_not_stored_for_the_backward_pass():
    sizes = (2, 16, 32, 512)  # batch, channels, state, length
    saved = []

    def pack(tensor):
        saved.append(tensor.nbytes)
        return tensor

    inputs = make_inputs(sizes, without=("z",))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        selective_scan(**inputs, delta_softplus=True)
    assert 0 < sum(saved) < math.prod(sizes) * 4 / 3
