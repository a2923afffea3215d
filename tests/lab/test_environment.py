"""A training process may keep its freed memory: seen in a process of its own, by the pages that it touches anew."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from lovasz.lab.environment import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_kept_memory_is_not_touched_anew() -> None:
    assert faults("keep") * 10 < faults("give back")
