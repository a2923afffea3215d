"""The entry of the `lovasz` command. Kept apart from the commands and importing nothing but the standard library,
so that a person who installed the library without the lab gets one clear line and no traceback."""

from __future__ import annotations

import os
import platform
import sys

INSTALL = 'pip install "lovasz[lab]"'

# glibc returns large freed blocks to the system, and at every training step takes them anew, to be zeroed page by page.
# It reads its settings once, as a process starts. Keeping the blocks shortens a step of ENet on a CPU by a third.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 33), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
LONG_WORK = ("train", "compare", "evaluate", "predict", "paper")


def keep_freed_memory() -> None:
    """Start this process anew with glibc's settings, once, unless the user has set one of them."""
    if platform.libc_ver()[0] == "glibc" and not any(name in os.environ for name in KEEP_FREED_MEMORY):
        os.environ.update(KEEP_FREED_MEMORY)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
    """Run the `lovasz` command line with `sys.argv`; ends by SystemExit.

    0 done, 1 doctor found a faulty kernel, 2 bad input, 130 interrupted.
    """
    if len(sys.argv) > 2 and sys.argv[1] in LONG_WORK:
        keep_freed_memory()
    try:
        from lovasz.lab.commands import app

        app(prog_name="lovasz")
    except KeyboardInterrupt:  # in the first seconds, while packages are imported; the commands catch their own
        sys.stderr.write("Interrupted.\n")
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "lovasz"):  # a fault of ours, not a missing package
            raise
        sys.stderr.write(f"The lovasz command needs the lab, and the package '{missing}' is not installed. Run\n")
        sys.stderr.write(f"    {INSTALL}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
