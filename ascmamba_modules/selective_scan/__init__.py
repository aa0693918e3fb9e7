"""The selective scan of Mamba: one operation, several engines."""

from ascmamba_modules.selective_scan.cpu.engine import mamba_inner_cpu
from ascmamba_modules.selective_scan.interface import (
    check_engine,
    choose_engine,
    engine_status,
    selective_scan,
)
from ascmamba_modules.selective_scan.triton.mamba import mamba_inner_triton
