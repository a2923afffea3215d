"""CUDA C++ on a GPU: compiled at run time by the compiler library that torch brings, kept, and launched.

Apart from the kernels because it knows nothing of them. Triton cannot say what cuda/ says: atomics on shared memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from triton.runtime.cache import get_cache_manager

_MOST_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


@functools.cache
def libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """The compiler's library and the driver's.

    Raises:
        OSError: one of them is not there.
    """
    version = (torch.version.cuda or "").split(".")[0]
    missing = ""
    for path in [Path(f"libnvrtc.so.{version}"), Path("libnvrtc.so"), *_beside_torch(version)]:
        try:
            return _compiler(path), ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            missing = str(error)
    raise OSError(f"libnvrtc.so.{version} of CUDA, which comes with torch, cannot be loaded: {missing}")


def _beside_torch(version: str) -> list[Path]:
    """Where pip puts the compiler for torch."""
    found = (folder.glob(f"*/lib/libnvrtc.so.{version}") for folder in (Path(place) / "nvidia" for place in sys.path))
    return [path for paths in found for path in paths]


def _compiler(path: Path) -> ctypes.CDLL:
    """The compiler's library. What it loads by name from its own folder, where nobody would look, is loaded first."""
    for other in path.parent.glob("libnvrtc-builtins.so.*") if path.is_absolute() else ():
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(other), ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one block can have; 0 where nothing can be compiled for this device."""
    if device.type != "cuda" or torch.version.hip:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    try:
        compiler, _ = libraries()
    except OSError:
        return 0
    if major < 8 or 10 * major + minor not in _architectures(compiler):  # before 8.0 bfloat16 is not known
        return 0
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)


def _architectures(compiler: ctypes.CDLL) -> list[int]:
    """What the compiler can make code for, as 90 for compute capability 9.0."""
    number = ctypes.c_int()
    if compiler.nvrtcGetNumSupportedArchs(ctypes.byref(number)):
        return []
    found = (ctypes.c_int * number.value)()
    return [] if compiler.nvrtcGetSupportedArchs(found) else list(found)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many blocks that fill a multiprocessor run side by side."""
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def kernels(
    source: str, names: tuple[str, ...], defined: tuple[str, ...], shared: int, device: torch.device
) -> dict[str, Any]:
    """The kernels ``names`` of a source, compiled once for a kind of device, by name.

    Args:
        source: CUDA C++; the kernels are ``extern "C"``.
        defined: macros, as ``NAME=VALUE``.
        shared: bytes of dynamic shared memory that they may be launched with.
        device: the GPU.
    """
    _, driver = libraries()
    with torch.cuda.device(device):
        _enter(driver)
        module = ctypes.c_void_p()
        _check(driver.cuModuleLoadData(ctypes.byref(module), _binary(source, defined, device)))
        found = {}
        for name in names:
            kernel = ctypes.c_void_p()
            _check(driver.cuModuleGetFunction(ctypes.byref(kernel), module, name.encode()))
            _check(driver.cuFuncSetAttribute(kernel, _MOST_SHARED, shared))
            found[name] = kernel
    return found


def launch(kernel: Any, grid: tuple[int, int], threads: int, shared: int, arguments: Sequence[Any]) -> None:
    """Start a kernel on the current stream of the current device.

    Args:
        kernel: from :func:`kernels`.
        grid: blocks. threads: of each. shared: bytes of dynamic shared memory of each.
        arguments: tensors (their addresses), None (no address) and ctypes numbers and structures.
    """
    held = [_argument(value) for value in arguments]
    pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    _, driver = libraries()
    _enter(driver)
    _check(driver.cuLaunchKernel(kernel, *grid, 1, threads, 1, 1, shared, stream, pointers, None))


def _enter(driver: ctypes.CDLL) -> None:
    """Make torch's context this thread's, as its own calls of CUDA do: backward runs in a thread that may have none."""
    context = ctypes.c_void_p()
    _check(driver.cuCtxGetCurrent(ctypes.byref(context)))
    if not context.value:
        _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), torch.cuda.current_device()))
        _check(driver.cuCtxSetCurrent(context))


def _argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_void_p() if value is None else value


def _binary(source: str, defined: tuple[str, ...], device: torch.device) -> bytes:
    """Machine code for a device, from Triton's cache of such things if it was ever compiled before."""
    compiler, _ = libraries()
    major, minor = torch.cuda.get_device_capability(device)
    version = [ctypes.c_int(), ctypes.c_int()]
    compiler.nvrtcVersion(*map(ctypes.byref, version))
    options = [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17", *(f"-D{macro}" for macro in defined)]
    known = "\0".join([source, *options, *(str(v.value) for v in version)])
    cache = get_cache_manager(hashlib.sha256(known.encode()).hexdigest())
    kept = cache.get_file("lovasz.cubin")
    if kept is not None and os.path.exists(kept):
        return Path(kept).read_bytes()
    binary = _compiled(compiler, source, options)
    cache.put(binary, "lovasz.cubin", binary=True)
    return binary


def _compiled(compiler: ctypes.CDLL, source: str, options: list[str]) -> bytes:
    program = ctypes.c_void_p()
    failed = compiler.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"lovasz.cu", 0, None, None)
    if failed:
        raise RuntimeError(f"NVRTC could not begin: error {failed}")
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        with _locale_kept():
            failed = compiler.nvrtcCompileProgram(program, len(options), given)
        if failed:
            size = ctypes.c_size_t()
            compiler.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            compiler.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"NVRTC cannot compile the kernel ({' '.join(options)}):\n{log.value.decode()}")
        size = ctypes.c_size_t()
        compiler.nvrtcGetCUBINSize(program, ctypes.byref(size))
        binary = ctypes.create_string_buffer(size.value)
        compiler.nvrtcGetCUBIN(program, binary)
        return binary.raw
    finally:
        compiler.nvrtcDestroyProgram(ctypes.byref(program))


@contextlib.contextmanager
def _locale_kept() -> Iterator[None]:
    """NVRTC of CUDA 12.1 and 12.4 leaves this thread in the C locale, where Python takes every text file for ASCII."""
    uselocale = ctypes.CDLL(None).uselocale
    uselocale.argtypes, uselocale.restype = [ctypes.c_void_p], ctypes.c_void_p
    before = uselocale(None)
    try:
        yield
    finally:
        uselocale(before)


def _check(result: int) -> None:
    if result:
        _, driver = libraries()
        text = ctypes.c_char_p()
        driver.cuGetErrorString(result, ctypes.byref(text))
        raise RuntimeError(f"CUDA error {result}: {(text.value or b'unknown').decode()}")
