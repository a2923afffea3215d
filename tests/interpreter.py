"""Runs a file of tests once more with Triton's interpreter, which Triton asks for when it is imported."""

import os
import subprocess
import sys
from pathlib import Path


def passes_in_the_interpreter(file: str) -> None:
    """Fail unless all tests of a file pass in a process in which Triton's kernels run on the CPU, number by number."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
