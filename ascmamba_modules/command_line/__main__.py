"""``python -m ascmamba_modules.command_line`` is the command ``ascmamba``."""

import sys

from ascmamba_modules.command_line import main

if __name__ == "__main__":
    sys.exit(main())
