"""Runs a file of tests once more with Triton's interpreter, which Triton asks for when it is imported."""

import dataclasses
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
    """Spare the interpreter what it does over and over, and to no end: two fifths of test_gpu_shared_memory.py's time.

    It puts its operations into triton.language at each call of a function, looking at every name of the module; once
    a launch is enough. It makes a table of types, and words and lists of a shape, at each operation; once is enough.
    And it computes whether integers overflow, but says so in debug mode alone.
    """
    try:
        from triton.language import core
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
    options = interpreter.interpreter_builder.options
    interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)
    block = core.block_type.__init__
    shapes: dict[Any, Any] = {}
    scalar = core.tuple([]), core.constexpr(1)

    def block_once(self: Any, element_ty: Any, shape: Any) -> None:
        key = element_ty.name, tuple(getattr(size, "value", size) for size in shape)
        if key not in shapes:
            block(self, element_ty, shape)
            self.told = core.tuple([core.constexpr(size) for size in self.shape]), core.constexpr(self.numel)
            shapes[key] = vars(self)
        self.__dict__ |= shapes[key]
        self.element_ty = element_ty

    def tensor_once(self: Any, handle: Any, type: Any) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = type.told if type.is_block() else scalar

    core.block_type.__init__, core.tensor.__init__ = block_once, tensor_once
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
