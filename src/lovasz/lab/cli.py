"""The entry of the `lovasz` command. Kept apart from the commands and importing nothing but the standard library,
so that a person who installed the library without the lab gets one clear line and no traceback."""

from __future__ import annotations

import sys

INSTALL = 'pip install "lovasz[lab]"'


def main() -> None:
    """Run the `lovasz` command line with `sys.argv`; ends by SystemExit: 0 done, 2 bad input, 130 interrupted."""
    try:
        from lovasz.lab.commands import app

        app(prog_name="lovasz")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "lovasz"):  # a fault of ours, not a missing package
            raise
        sys.stderr.write(f"The lovasz command needs the lab, and the package '{missing}' is not installed. Run\n")
        sys.stderr.write(f"    {INSTALL}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
