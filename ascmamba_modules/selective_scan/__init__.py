"""The selective scan of Mamba: one operation, several engines."""

from ascmamba_modules.selective_scan.inner import mamba_inner
from ascmamba_modules.selective_scan.interface import (
    check_engine,
    choose_engine,
    engine_status,
    selective_scan,
)
