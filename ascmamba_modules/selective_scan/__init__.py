"""The selective scan of Mamba: one operation, several engines."""

from ascmamba_modules.selective_scan.interface import (
    check_engine,
    engine_status,
    selective_scan,
)
