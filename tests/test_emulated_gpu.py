"""The kernels in Triton, compiled for a card and run by an emulator of it.

The tests of the engine triton run once more in a process of their own, in
which Triton believes in a GPU; and first, what the emulator does is compared
with what the manual of PTX says, and with PyTorch.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_gpu.machine import Kernel
from emulated_gpu.memory import Region

TESTS = Path(__file__).parent
KERNEL = """
.visible .entry kernel(
    .param .u64 .ptr .global .align 1 kernel_param_0,
    .param .u32 kernel_param_1
)
.reqntid 32
{
    .reg .b32 %r<99>;
    ld.param.b64 %rd1, [kernel_param_0];
    ld.param.b32 %r1, [kernel_param_1];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;  // of each lane's own value
    shl.b32 %r3, %r2, 2;  // the same in shared memory
BODY
    ret;
}
"""


def run(body, values, number=0, programs=1):
    """Runs lines of PTX on an array, which they may change."""
    lines = "\n".join(f"{line};" for line in body.split("; "))
    kernel = Kernel(KERNEL.replace("BODY", lines), shared_bytes=512)
    region = Region(4096, values.view(np.uint8).reshape(-1))
    kernel.run((programs, 1, 1), [4096, number], [region])
    return values


LANES = np.arange(32)
INTEGERS = {
    "add.s32 %r9, %r2, -3": LANES - 3,
    "sub.s32 %r9, %r1, %r2": 7 - LANES,
    "neg.s32 %r9, %r2": -LANES,
    "mad.lo.s32 %r9, %r2, %r1, 5": 7 * LANES + 5,
    "sub.s32 %r8, %r2, 16; div.s32 %r9, %r8, %r1": np.fix((LANES - 16) / 7),
    "and.b32 %r9, %r2, 12": LANES & 12,
    "xor.b32 %r9, %r2, 5": LANES ^ 5,
    "not.b32 %r9, %r2": ~LANES,
    "sub.s32 %r8, %r2, 16; shr.s32 %r9, %r8, 1": (LANES - 16) >> 1,
    "bfe.u32 %r9, %r2, 1, 3": LANES >> 1 & 7,
    "bfe.s32 %r9, %r2, 2, 1": -(LANES >> 2 & 1),
    "sub.s32 %r8, %r2, 16; shr.u32 %r9, %r8, 28": (LANES < 16) * 15,
    "sub.s32 %r8, %r2, 16; div.u32 %r9, %r8, %r1": ((LANES - 16) % 2**32 // 7),
    "sub.s32 %r8, %r2, 16; setp.lt.u32 %p1, %r8, 9; selp.b32 %r9, 1, 0, %p1": (
        (LANES >= 16) & (LANES < 25)
    ),
    "mul.lo.s32 %r9, %r2, 2000000000": (
        np.int32(2 * 10**9) * LANES.astype(np.int32)
    ),
    "sub.s32 %r8, %r2, 16; mul.wide.s32 %rd9, %r8, 2000000000; "
    "shr.u64 %rd9, %rd9, 32; cvt.u32.u64 %r9, %rd9": (
        (LANES - 16) * 2 * 10**9 >> 32
    ),
    "sub.s32 %r8, %r2, 16; mad.wide.u32 %rd9, %r8, 3, %rd1; "
    "shr.u64 %rd9, %rd9, 32; cvt.u32.u64 %r9, %rd9": (LANES < 16) * 3,
    "sub.s32 %r8, %r2, 16; cvt.s64.s32 %rd9, %r8; shr.u64 %rd9, %rd9, 32; "
    "cvt.u32.u64 %r9, %rd9": -1 * (LANES < 16),
    "min.s32 %r9, %r2, 9": np.minimum(LANES, 9),
    "shfl.sync.bfly.b32 %r9, %r2, 8, 31, -1": LANES ^ 8,
    "setp.lt.s32 %p1, %r2, %r1; selp.b32 %r9, %r1, 0, %p1": (LANES < 7) * 7,
    "mov.b32 %r9, 1; setp.lt.s32 %p1, %r2, 7; @!%p1 mov.b32 %r9, 0": LANES < 7,
    "mov.b32 {%rs1, %rs2}, %r2; mov.b32 %r9, {%rs2, %rs1}": LANES << 16,
    "mov.u32 %r9, %nctaid.x": np.full(32, 1),
}


@pytest.mark.parametrize("body", INTEGERS)
def test_integers(body):
    values = np.zeros(32, np.int32)
    run(f"{body}; st.global.b32 [%rd3], %r9", values, number=7)
    np.testing.assert_array_equal(values, INTEGERS[body])


FLOATS = {
    "mul.f32 %r9, %r8, 0f3FC00000": lambda x: 1.5 * x,
    "fma.rn.f32 %r9, %r8, %r8, %r8": lambda x: torch.addcmul(x, x, x),
    "ex2.approx.ftz.f32 %r9, %r8": torch.exp2,
    "div.full.f32 %r9, %r8, 0f40400000": lambda x: x / 3,
    "abs.f32 %r9, %r8": torch.abs,
    "max.f32 %r9, %r8, 0f00000000": (lambda x: torch.fmax(x, torch.zeros(()))),
    "cvt.rn.bf16.f32 %rs1, %r8; cvt.f32.bf16 %r9, %rs1": torch.Tensor.bfloat16,
    "cvt.rn.bf16x2.f32 %r9, %r8, %r8; and.b32 %r9, %r9, -65536": (
        torch.Tensor.bfloat16
    ),
    "cvt.rn.f16.f32 %rs1, %r8; cvt.f32.f16 %r9, %rs1": torch.Tensor.half,
    "mov.b64 %rd8, {%r8, %r2}; add.f32x2 %rd8, %rd8, %rd8; "
    "mov.b64 {%r9, _}, %rd8": lambda x: 2 * x,
    **{
        f"setp.{name}.f32 %p1, %r8, %r8; selp.f32 %r9, 0f3F800000, "
        "0f00000000, %p1": function
        for name, function in {
            "eq": lambda x: x == x,
            "ne": torch.zeros_like,  # NaN differs from nothing
            "le": lambda x: x <= x,
        }.items()
    },
}


@pytest.mark.parametrize("body", FLOATS)
def test_floats_as_in_pytorch(body):
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -126.0, -126.5]
    ties = [1.00390625, 1.01171875, -9.5, 2049.0]
    x = torch.cat([torch.tensor(special + ties), 10 * torch.randn(20)])
    expected = FLOATS[body](x).float()
    if body.startswith("ex2"):
        expected[expected < torch.finfo().tiny] = 0  # .ftz
    lines = f"ld.global.b32 %r8, [%rd3]; {body}; st.global.b32 [%rd3], %r9"
    actual = torch.from_numpy(run(lines, x.numpy().copy()))
    torch.testing.assert_close(
        actual, expected, rtol=2e-7, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("count", [1, 4])
def test_matrices_lie_in_shared_memory_as_the_manual_shows(count):
    """Lane 4 row + i has the pair i of a row, whose address lane `row` has,
    and of a further matrix the next eight lanes."""
    registers = ", ".join(f"%r{8 + m}" for m in range(count))
    rows = "shl.b32 %r4, %r2, 4"  # of 16 bytes
    lines = [f"add.s32 %r{8 + m}, %r2, {100 * m}" for m in range(count)]
    matrix = f"matrix.sync.aligned.m8n8.x{count}.shared.b16"
    lines += [rows, f"st{matrix} [%r4], {{{registers}}}", "bar.sync 0"]
    # Once as it lies, once back.
    lines += [f"ld.shared.b32 %r20, [%r3+{128 * (count - 1)}]"]
    lines += [f"ld{matrix} {{{registers}}}, [%r4]"]
    lines += [f"sub.s32 %r20, %r20, %r{7 + count}"]
    lines += ["shl.b32 %r20, %r20, 16", f"add.s32 %r20, %r20, %r{7 + count}"]
    values = np.zeros(32, np.int32)
    run("; ".join([*lines, "st.global.b32 [%rd3], %r20"]), values)
    np.testing.assert_array_equal(values, LANES + 100 * (count - 1))


READ_LANE = "shfl.sync.bfly.b32 %r9, %r2, 8, 31, -1"
READ_OTHERS = "xor.b32 %r4, %r3, 64; ld.shared.b32 %r9, [%r4]"


@pytest.mark.parametrize(
    "body, problem",
    [
        ("st.global.b32 [%rd3+4], %r2", "outside of all tensors"),
        ("st.global.b32 [%rd3+-4], %r2", "outside of all tensors"),
        ("st.global.b32 [%rd3+2], %r2", "4 bytes that are not aligned"),
        ("ld.global.v4.b32 {%r5, %r6, %r7, %r8}, [%rd3]", "16 bytes that are"),
        ("st.global.b32 [%rd1], %r2", "lanes write different values"),
        (f"st.shared.b32 [%r3], %r2; {READ_OTHERS}", "no barrier"),
        (f"{READ_OTHERS}; st.shared.b32 [%r3], %r2", "no barrier"),
        (
            f"st.shared.b32 [%r3], %r2; bar.sync 0; {READ_OTHERS}; "
            "st.shared.b32 [%r3], %r9",
            "no barrier",
        ),
        ("setp.lt.s32 %p1, %r2, 7; @%p1 bra $away", "Lanes part"),
        # Together or not at all.
        (f"setp.lt.s32 %p1, %r2, 7; @%p1 {READ_LANE}", "Some lanes"),
        ("setp.lt.s32 %p1, %r2, 7; @%p1 bar.sync 0", "Some lanes"),
        (
            f"st.shared.b32 [%r3], %r2; setp.lt.s32 %p1, %r2, 0; "
            f"@%p1 bar.sync 0; {READ_OTHERS}",
            "no barrier",
        ),
        ("bfe.u32 %r9, %r2, 28, 8", "Bits that are not there"),
        (
            "setp.lt.s32 %p1, %r2, 7; @%p1 mov.b32 %r5, 0; "
            "cvt.u64.u32 %rd5, %r5; ld.global.b32 %r6, [%rd5+4096]",
            "outside|aligned",
        ),
        ("add.cc.s32 %r9, %r2, 1", r"PTX: add\.cc\.s32"),
        ("cvt.rz.bf16x2.f32 %r9, %r2, %r2", "PTX: cvt.rz"),
        ("setp.lt.s32 %p1|%p2, %r2, 7", "%p1"),
        ("sin.approx.f32 %r9, %r2", r"PTX: sin\.approx"),
        ("ld.volatile.global.b32 %r9, [%rd3]", "PTX: ld.volatile"),
        ("ld.global.b32 %r9, [%rd9]", "not aligned"),  # of garbage
    ],
)
def test_what_is_wrong_is_an_error(body, problem):
    with pytest.raises(Exception, match=problem):
        run(body, np.zeros(32, np.int32))


def test_barriers_end_races():
    values = np.zeros(32, np.int32)
    run(
        f"st.shared.b32 [%r3], %r2; bar.sync 0; {READ_OTHERS}; "
        "bar.warp.sync -1; st.shared.b32 [%r3], %r9; "
        "st.global.b32 [%rd3], %r9",
        values,
    )
    np.testing.assert_array_equal(values, LANES ^ 16)


FIRST = "mov.u32 %r8, %ctaid.x; setp.eq.s32 %p1, %r8, 0"


@pytest.mark.parametrize(
    "body",
    [
        "st.global.b32 [%rd3], 1",
        f"{FIRST}; @%p1 ld.global.b32 %r9, [%rd3]; "
        "@!%p1 st.global.b32 [%rd3], 1",
        f"{FIRST}; @%p1 st.global.b32 [%rd3], 1; "
        "@!%p1 ld.global.b32 %r9, [%rd3]",
        f"{FIRST}; ld.global.b32 %r9, [%rd3]; @!%p1 st.global.b32 [%rd3], 1",
    ],
    ids=["both write", "read and write", "write and read", "in place"],
)
def test_no_barrier_is_between_programs(body):
    run(body, np.zeros(32, np.int32))
    with pytest.raises(RuntimeError, match="Race"):
        run(body, np.zeros(32, np.int32), programs=2)


def run_emulated(arguments, cache, **environment):
    """Runs Python with an emulated GPU, and Triton's cache elsewhere."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=TESTS.parent,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "TRITON_CACHE_DIR": str(cache),
            "TRITON_INTERPRET": "0",
            **environment,
        },
        capture_output=True,
        text=True,
    )


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed",
)


@needs_triton
def test_engine_triton_passes_its_tests_on_an_emulated_gpu(tmp_path):
    files = ("test_triton.py", "test_selective_scan.py", "test_mamba.py")
    chosen = "(triton or interpreted) and not compile"
    files = [str(TESTS / "ascmamba_modules" / file) for file in files]
    result = run_emulated(
        ["-m", "pytest", "-k", chosen, *files], tmp_path, ASC_EMULATED_GPU="90"
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr
    assert "kernels in Triton: emulated sm_90" in result.stdout
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 100


ON_ALL_CARDS = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from emulated_gpu import driver
from ascmamba_modules.selective_scan.triton_check import largest_error

for architecture in (75, 80, 89, 100, 120):
    driver.activate(architecture)
    error = largest_error("cpu", channels=36, states=5, steps=37)
    assert error < 1e-5, (architecture, error)
print("all right")
"""


@needs_triton
def test_kernels_on_other_cards(tmp_path):
    result = run_emulated(["-c", ON_ALL_CARDS], tmp_path)
    assert "all right" in result.stdout, result.stderr
