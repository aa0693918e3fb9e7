"""Every engine of the selective scan computes the recurrence of Mamba."""

import importlib.util
import logging
import math
import shutil
import subprocess
import sys
import sysconfig
from functools import partial

import pytest
import torch
from hypothesis import (
    given,
    strategies as st,
)

from ascmamba_modules.selective_scan import (
    engine_status,
    interface,
    selective_scan,
    torch_engine,
)
from ascmamba_modules.selective_scan.cpu import library as cpu_library
from ascmamba_modules.selective_scan.triton import engine as triton_engine

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA GPU is visible"
    ),
]
# Where there is a compiler the kernels must be there.
compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
compiled = pytest.mark.skipif(
    shutil.which(compiler) is None and not cpu_library.LIBRARY.exists(),
    reason=f"no C compiler ({compiler}) to compile the kernels with",
)
interpreted = pytest.mark.skipif(
    not triton_engine.interpreting()
    or importlib.util.find_spec("triton") is None,
    reason="triton is not installed, or its kernels run on the GPU instead",
)
WITHOUT_TRITON = ["torch", pytest.param("cpu", marks=compiled)]
ON_CPU = [*WITHOUT_TRITON, pytest.param("triton", marks=interpreted)]
ENGINES = [
    pytest.param("torch", "cpu", id="torch"),
    pytest.param("cpu", "cpu", marks=compiled, id="cpu"),
    pytest.param("triton", "cpu", marks=interpreted, id="triton-interpreted"),
    pytest.param("torch", "cuda", marks=on_gpu, id="torch-cuda"),
    pytest.param("triton", "cuda", marks=on_gpu, id="triton"),
    pytest.param("mamba_ssm", "cuda", marks=on_gpu, id="mamba_ssm"),
]

# Options of make_inputs, with settings of the chunks and of the softplus.
CASES = [
    pytest.param({}, id="plain"),
    pytest.param({"sizes": (2, 5, 3, 37)}, id="odd sizes"),
    pytest.param({"sizes": (1, 37, 2, 5)}, id="odd channels, several vectors"),
    pytest.param(
        {"sizes": (3, 37, 7, 65), "long": True}, id="odd sizes, several vectors"
    ),
    pytest.param(
        {"sizes": (70, 16, 16, 32), "long": True}, id="many sequences"
    ),
    pytest.param({"sizes": (5, 2, 2, 3), "programs": 2}, id="runs of three"),
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
        {"B": "grouped", "C": "each", "sizes": (2, 6, 3, 7)},
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


def scan_with(engine, softplus=True, **options):
    """A function of inputs by name, for :func:`run_with_gradients`."""

    def scan(tensors):
        return selective_scan(
            *tensors.values(),
            delta_softplus=softplus,
            return_last_state=True,
            engine=engine,
            **options,
        )

    return scan


def run_with_gradients(scan, inputs, through_state=True):
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
        if "programs" in case:
            monkeypatch.setattr(
                triton_engine, "_MAX_PROGRAMS", case["programs"]
            )
        # A whole number of steps that are unrolled.
        chunk = max(4, case.get("max_chunk", 32) // 4 * 4)
        monkeypatch.setattr(triton_engine, "CHUNK", chunk)

    return set_them


def shortened(case):
    """A case that Triton's interpreter gets through in a second."""
    if "long" in case:
        pytest.skip("takes the interpreter a minute")
    if "elements" in case or set(case) == {"max_chunk"}:
        pytest.skip("chunks of the engine torch: the plain case again")
    batch, channels, state, length = case.get("sizes", (2, 4, 3, 20))
    # Chunks get shorter, too, so that there are two, the second incomplete.
    sizes = (min(batch, 5), channels, state, min(length, 6))
    return {"max_chunk": 4, **case, "sizes": sizes}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine, device", ENGINES)
def test_equals_the_recurrence_in_float64(engine, device, case, set_chunks):
    if engine == "mamba_ssm":
        pytest.importorskip("selective_scan_cuda", exc_type=ImportError)
    if (engine, device) == ("triton", "cpu"):
        case = shortened(case)
    set_chunks(case)
    softplus = case.get("softplus", True)
    inputs = make_inputs(**case)
    exact = {
        name: x if x is None else x.detach().double().requires_grad_()
        for name, x in inputs.items()
    }

    def scan(tensors):
        tensors = {
            name: x if x is None else x.to(device)
            for name, x in tensors.items()
        }
        return scan_with(engine, softplus)(tensors)

    # The kernel of mamba-ssm has no gradient through the last state.
    through_state = engine != "mamba_ssm"
    assert_equal_results(
        run_with_gradients(scan, inputs, through_state),
        run_with_gradients(
            lambda tensors: loop(*tensors.values(), softplus),
            exact,
            through_state,
        ),
        tolerance={
            "torch": 1e-5,
            "cpu": 2e-6,
            "triton": 1e-5,
            "mamba_ssm": 1e-3,
        }[engine],
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine", WITHOUT_TRITON)
def test_equals_the_reference_of_mamba_ssm(
    engine, case, set_chunks, mamba_ssm_reference
):
    set_chunks(case)
    softplus = case.get("softplus", True)
    inputs = make_inputs(**case)

    def reference(tensors):
        return mamba_ssm_reference.selective_scan_ref(
            *tensors.values(), delta_softplus=softplus, return_last_state=True
        )

    assert_equal_results(
        run_with_gradients(scan_with(engine, softplus), inputs),
        run_with_gradients(reference, inputs),
        tolerance=1e-5,
    )


@pytest.mark.parametrize("projection", ["shared", "grouped", "constant"])
@pytest.mark.parametrize("engine", WITHOUT_TRITON)
def test_gradients_equal_finite_differences(engine, projection, set_chunks):
    set_chunks({"max_chunk": 2})
    inputs = make_inputs(
        sizes=(1, 2, 2, 5), B=projection, C=projection, dtype=torch.float64
    )
    assert torch.autograd.gradcheck(
        lambda *tensors: selective_scan(
            *tensors,
            delta_softplus=True,
            return_last_state=True,
            engine=engine,
        ),
        tuple(inputs.values()),
    )


@pytest.mark.parametrize("number", range(len(cpu_library.INSTRUCTION_SETS)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@compiled
def test_every_instruction_set_gives_the_same(number, dtype, monkeypatch):
    if number > cpu_library.instruction_set():
        name = cpu_library.INSTRUCTION_SETS[number]
        pytest.skip(f"this machine has no {name}")
    monkeypatch.setattr(cpu_library, "instruction_set", lambda: number)
    inputs = make_inputs((3, 37, 7, 65), dtype=dtype)

    assert_equal_results(
        run_with_gradients(scan_with("cpu"), inputs),
        run_with_gradients(scan_with("torch"), inputs),
        tolerance=1e-5 if dtype == torch.float32 else 1e-13,
    )


@pytest.mark.parametrize("engine", ON_CPU)
@pytest.mark.parametrize("B", ["shared", "constant"])
def test_reverse_reads_from_the_last_step_to_the_first(engine, B):
    inputs = make_inputs((2, 5, 3, 7 if engine == "triton" else 37), B=B)

    def scan_flipped(tensors):
        tensors = {
            name: x.flip(-1) if name in ("u", "delta", "z", "C") else x
            for name, x in tensors.items()
        }
        if B == "shared":
            tensors["B"] = tensors["B"].flip(-1)
        y, last_state = scan_with(engine)(tensors)
        return y.flip(-1), last_state

    assert_equal_results(
        run_with_gradients(scan_with(engine, reverse=True), inputs),
        run_with_gradients(scan_flipped, inputs),
        tolerance=1e-6,
    )


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@compiled
@pytest.mark.parametrize(
    "sizes", [(130, 16, 16, 40), (1, 100, 16, 900)], ids=str
)
def test_results_do_not_depend_on_the_number_of_threads(sizes, set_threads):
    inputs = make_inputs(sizes)

    def results(threads):
        set_threads(threads)
        return run_with_gradients(scan_with("cpu"), inputs)

    expected = results(1)
    for threads in (2, 5):
        for name, x in results(threads).items():
            assert torch.equal(x, expected[name]), name


RUN_ON_THREADS = """
import os, torch
from ascmamba_modules.selective_scan import selective_scan
torch.set_num_threads(3)
count = lambda: len(os.listdir("/proc/self/task"))
inputs = [torch.empty(s) for s in ((8, 64, 99), (8, 64, 99), (64, 16))]
B = torch.empty(8, 16, 99)
before = count()
selective_scan(*inputs, B, B, engine="cpu")
print(count() - before)
"""


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_threads_are_those_of_openmp():
    """Which stay for PyTorch; threads of our own would have ended."""
    output = subprocess.check_output([sys.executable, "-c", RUN_ON_THREADS])
    assert int(output) == 2


class Scans(torch.utils.data.Dataset):
    """Runs the scan wherever it is read."""

    def __init__(self, inputs):
        self.inputs = inputs

    def __len__(self):
        return 4

    def __getitem__(self, index):
        inputs = {n: x.detach().clone() for n, x in self.inputs.items()}
        u = inputs["u"].requires_grad_()
        y = selective_scan(**inputs, delta_softplus=True, engine="cpu")
        y.sum().backward()
        return y.detach(), u.grad


@compiled
def test_runs_in_forked_workers_of_a_data_loader(monkeypatch):
    # Threads for the scan alone: PyTorch's own hang after a fork.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    scans = Scans(make_inputs((4, 32, 16, 300)))
    expected = scans[0]  # with threads, before the fork
    loader = torch.utils.data.DataLoader(
        scans,
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        timeout=60,
    )
    for results in loader:
        for actual, x in zip(results, expected):
            assert torch.equal(actual, x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "engine, sizes",
    [
        pytest.param("cpu", (2, 5, 3, 70), marks=compiled),
        pytest.param("triton", (1, 5, 3, 6), marks=interpreted),
    ],
)
def test_nan_goes_where_the_recurrence_takes_it(
    engine, sizes, name, set_chunks
):
    set_chunks({"max_chunk": 4})
    inputs = make_inputs(sizes)
    with torch.no_grad():
        index = [size // 2 for size in inputs[name].shape]
        inputs[name][tuple(index)] = torch.nan

    actual = run_with_gradients(scan_with(engine), inputs)
    expected = run_with_gradients(scan_with("torch"), inputs)
    assert actual["y"].isnan().any()
    for key, x in expected.items():
        assert torch.equal(actual[key].isnan(), x.isnan()), key


@pytest.mark.parametrize("engine", ON_CPU[1:])
def test_extreme_step_sizes_give_the_limits(engine):
    u = torch.ones(1, 1, 6)
    delta = torch.tensor([[[-1e30, -200.0, 0.0, 200.0, 1e30, torch.inf]]])
    A, B = torch.tensor([[-1.0]]), torch.ones(1, 1, 6)
    results = [
        selective_scan(u, delta, A, B, B, delta_softplus=True, engine=engine)
        for engine in (engine, "torch")
    ]
    torch.testing.assert_close(*results, rtol=1e-6, atol=0)


def layouts(x, seed):
    """x in some other order of memory, with gaps."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(x.dim(), generator=generator).tolist()
    gap = 1 + seed % 2
    shape = [x.shape[axis] for axis in order]
    buffer = x.new_zeros(*shape, gap)[..., 0]
    view = buffer.permute(*(order.index(axis) for axis in range(x.dim())))
    return view.copy_(x)


@compiled
@given(st.data())
def test_any_input_gives_what_the_torch_engine_gives(data):
    draw = data.draw
    kinds = st.sampled_from(["shared", "grouped", "each", "constant"])
    sizes = (
        draw(st.integers(1, 70)),
        6 * draw(st.integers(1, 8)),  # divides into 2 and 3 groups
        draw(st.integers(1, 19)),
        draw(st.integers(1, 70)),
    )
    softplus = draw(st.booleans())
    inputs = make_inputs(
        sizes,
        B=draw(kinds),
        C=draw(kinds),
        without=draw(st.sets(st.sampled_from(["D", "z", "delta_bias"]))),
        softplus=softplus,
        dtype=torch.float64,
    )
    inputs = {
        name: x if x is None else layouts(x.detach(), draw(st.integers(0, 9)))
        for name, x in inputs.items()
    }
    inputs = {
        name: x if x is None else x.requires_grad_()
        for name, x in inputs.items()
    }
    reverse = draw(st.booleans())
    actual, expected = (
        run_with_gradients(scan_with(engine, softplus, reverse=reverse), inputs)
        for engine in ("cpu", "torch")
    )
    assert_equal_results(actual, expected, tolerance=1e-11)


def test_last_state_comes_only_if_asked_for():
    inputs = make_inputs()
    y = selective_scan(**inputs)
    assert isinstance(y, torch.Tensor)
    torch.testing.assert_close(
        y, selective_scan(**inputs, return_last_state=True)[0]
    )


@pytest.mark.parametrize("engine", ON_CPU)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_float32_state(dtype, engine):
    length = 6 if engine == "triton" else 100
    inputs = make_inputs(sizes=(2, 4, 8, length))
    for name in ("u", "delta", "B", "C", "z"):
        inputs[name] = inputs[name].detach().to(dtype).requires_grad_()
    y, last_state = selective_scan(
        **inputs, delta_softplus=True, return_last_state=True, engine=engine
    )
    assert y.dtype == dtype
    assert last_state.dtype == torch.float32

    full = {name: x.detach().float() for name, x in inputs.items()}
    expected, expected_state = selective_scan(
        **full, delta_softplus=True, return_last_state=True, engine=engine
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


@pytest.mark.parametrize("engine", ON_CPU)
@pytest.mark.parametrize("B", ["shared", "constant"])
def test_autocast_costs_no_precision(B, engine):
    length = 6 if engine == "triton" else 100
    inputs = make_inputs(sizes=(2, 8, 8, length), B=B)

    scan = scan_with(engine)
    expected = run_with_gradients(scan, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = run_with_gradients(scan, inputs)
    assert_equal_results(actual, expected, tolerance=1e-6)


def constant_inputs(A, length):
    """Step size 1, so that the state is a sum of B u under decay exp(A)."""
    u = torch.randn(1, 2, length, requires_grad=True)
    delta = torch.ones(1, 2, length, requires_grad=True)
    A = torch.full((2, 3), A, requires_grad=True)
    B, C = torch.randn(2, 1, 3, length).requires_grad_().unbind()
    return u, delta, A, B, C


@pytest.mark.parametrize("engine", ON_CPU)
@pytest.mark.parametrize("decay", [-1e4, 0.0], ids=["forgets", "remembers"])
def test_long_sequences_stay_finite_and_exact(decay, engine):
    length = 36 if engine == "triton" else 5000  # more than a chunk
    u, delta, A, B, C = constant_inputs(decay, length)
    y = selective_scan(u, delta, A, B, C, engine=engine)
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
        ({"A": torch.rand(4, 3, dtype=torch.cfloat)}, "A must be real"),
        ({"u": torch.ones(2, 4, 20, dtype=torch.int64)}, "u must.*int64"),
        ({"D": torch.ones(4, dtype=torch.bool)}, "D must.*bool"),
        ({"z": torch.rand(2, 4, 20, device="meta")}, "z is on meta, u on cpu"),
        ({"engine": "abacus"}, "Unknown engine 'abacus'.*torch"),
    ],
)
@pytest.mark.parametrize("engine", ON_CPU)
def test_wrong_arguments_are_refused(wrong, message, engine):
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**make_inputs(), "engine": engine, **wrong})


@interpreted
def test_triton_knows_no_float64_and_says_what_does():
    inputs = make_inputs(dtype=torch.float64)
    with pytest.raises(RuntimeError, match="'triton'.*float64.*'torch'"):
        selective_scan(**inputs, engine="triton")


def test_triton_runs_on_a_cpu_only_when_interpreted(monkeypatch):
    monkeypatch.setattr(triton_engine, "interpreting", lambda: False)
    with pytest.raises(RuntimeError, match="'triton'.*CUDA GPU.*move"):
        selective_scan(**make_inputs(), engine="triton")


@interpreted
def test_interpreted_kernels_are_never_the_choice(monkeypatch):
    monkeypatch.setattr(cpu_library, "unavailable_reason", lambda: "none")
    assert engine_status("cpu")["triton"] is None
    assert interface.choose_engine("auto", **sample_inputs()) == "torch"


def test_package_does_not_import_triton():
    code = "import sys, ascmamba_modules.mamba; print('triton' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


@interpreted
@pytest.mark.parametrize("reverse_mask", [0b10, 0b01])
def test_pair_in_one_launch_equals_two_scans(reverse_mask, set_chunks):
    set_chunks({"max_chunk": 4})
    # Channels last, directions next to each other, z in one tensor with u.
    channels, states, length = 5, 3, 5
    xz = torch.randn(2, length, 2, 2 * channels)
    delta = torch.randn(2, length, 2, channels)
    projections = torch.randn(2, length, 2, 1 + 2 * states)
    parameters = [
        -3 * torch.rand(2, channels, states),
        torch.randn(2, channels),
        torch.randn(2, channels),
    ]
    tensors = [xz, delta, projections, *parameters]
    tensors = [x.requires_grad_() for x in tensors]

    def sequences(x):  # (B, L, K, n) -> (K, B, n, L)
        return x.permute(2, 0, 3, 1)

    def results(scan):
        xz, delta, projections, A, D, bias = tensors
        u, z = (sequences(x) for x in xz.chunk(2, -1))
        _, B, C = sequences(projections).split([1, states, states], dim=2)
        y, state = scan(u, sequences(delta), A, B, C, D, z, bias)
        loss = (y * y.detach().cos()).sum() + (state**2).sum()
        return [y, state, *torch.autograd.grad(loss, tensors)]

    def at_once(u, delta, A, B, C, D, z, bias):
        B, C = B.unsqueeze(2), C.unsqueeze(2)
        return triton_engine.scan_triton(
            u, delta, A, B, C, D, z, bias, True, reverse_mask
        )

    def one_by_one(*inputs, engine):
        y, state = zip(
            *(
                selective_scan(
                    u, delta, A, B, C, D, z, bias, True, True, engine, reverse
                )
                for u, delta, A, B, C, D, z, bias, reverse in zip(
                    *inputs, [bool(reverse_mask & 1), bool(reverse_mask & 2)]
                )
            )
        )
        return torch.stack(y), torch.stack(state)

    pair = results(at_once)
    for engine, tolerance in (("triton", 0), ("torch", 1e-5)):
        expected = results(partial(one_by_one, engine=engine))
        for actual, x in zip(pair, expected):
            torch.testing.assert_close(
                actual, x, rtol=tolerance, atol=tolerance
            )


def test_engine_that_cannot_run_is_refused_with_reason_and_remedy():
    reason = engine_status("cpu")["mamba_ssm"]
    with pytest.raises(RuntimeError, match="'mamba_ssm'.*CUDA GPU.*move"):
        selective_scan(**make_inputs(), engine="mamba_ssm")
    with pytest.raises(RuntimeError) as raised:
        selective_scan(**make_inputs(), engine="mamba_ssm")
    assert reason in str(raised.value)


@compiled
def test_compiled_engine_is_the_choice_for_the_cpu():
    assert engine_status("cpu")["cpu"] is None
    assert interface.choose_engine("auto", **sample_inputs()) == "cpu"


def sample_inputs():
    inputs = make_inputs()
    return {"u": inputs["u"], "A": inputs["A"]}


@pytest.mark.parametrize("reason", [None, "its kernels were not compiled"])
def test_auto_logs_its_choice_once(reason, monkeypatch, caplog):
    monkeypatch.setattr(interface, "_logged_choices", set())
    monkeypatch.setattr(cpu_library, "unavailable_reason", lambda: reason)
    with caplog.at_level(logging.INFO, logger=interface.__name__):
        for _ in range(3):
            interface.choose_engine("auto", **sample_inputs())
        interface.choose_engine("torch", **sample_inputs())
    (record,) = (r for r in caplog.records if r.name == interface.__name__)
    message = record.getMessage()
    # Nobody on a CPU asked for the engines of GPUs.
    assert engine_status()["mamba_ssm"] not in message
    if reason is None:
        assert "engine 'cpu'" in message
    else:
        assert "engine 'torch'" in message and reason in message
        assert record.levelname == "WARNING"


@pytest.mark.parametrize(
    "choice, level", [("triton", "INFO"), ("torch", "WARNING")]
)
def test_slow_choice_on_a_gpu_is_a_warning(choice, level, monkeypatch, caplog):
    monkeypatch.setattr(interface, "_logged_choices", set())
    status = {"triton": None if choice == "triton" else "no C compiler"}
    with caplog.at_level(logging.INFO, logger=interface.__name__):
        interface._log_once(choice, "cuda", status)
    (record,) = (r for r in caplog.records if r.name == interface.__name__)
    assert record.levelname == level


def test_kernels_that_are_missing_are_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu_library, "LIBRARY", tmp_path / "none.so")
    cpu_library.unavailable_reason.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="'cpu' cannot.*gcc.*install"):
            selective_scan(**make_inputs(), engine="cpu")
        assert interface.choose_engine("auto", **sample_inputs()) == "torch"
    finally:
        cpu_library.unavailable_reason.cache_clear()


@pytest.mark.parametrize("engine", ON_CPU)
def test_states_are_not_stored_for_the_backward_pass(engine):
    # Batch, channels, state, length.
    sizes = (1, 16, 32, 80) if engine == "triton" else (2, 16, 32, 512)
    saved = []

    def pack(tensor):
        saved.append(tensor.nbytes)
        return tensor

    inputs = make_inputs(sizes, without=("z",))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        selective_scan(**inputs, delta_softplus=True, engine=engine)
    assert 0 < sum(saved) < math.prod(sizes) * 4 / 3
