"""Runs a file of tests once more with Triton's interpreter, which Triton asks for when it is imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


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


def hasten() -> None:
    """Have the interpreter put its operations into triton.language once for each function that a launch calls, and look
    up numpy's type of one of Triton's once.

    It does the first at every call, looking at every name of the module each time: a third of test_gpu_kernel.py's
    time. The second it does at every operation, making a table each time: a tenth.
    """
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    look_up = interpreter._get_np_dtype
    known: dict[str, Any] = {}

    def look_up_once(of: Any) -> Any:
        name = of.scalar.name
        if name not in known:
            known[name] = look_up(of.scalar)
        return known[name]

    interpreter._get_np_dtype = look_up_once
    launch, call = interpreter.GridExecutor.__call__, interpreter.InterpretedFunction.__call__
    called: set[Any] = set()

    def launch_afresh(self: Any, *arguments: Any, **options: Any) -> Any:
        called.clear()  # a launch takes back at its end what it has put there
        return launch(self, *arguments, **options)

    def call_patched(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.fn not in called:
            called.add(self.fn)
            return call(self, *arguments, **options)
        return self.rewrite()(*arguments, **options)

    interpreter.GridExecutor.__call__ = launch_afresh
    interpreter.InterpretedFunction.__call__ = call_patched
