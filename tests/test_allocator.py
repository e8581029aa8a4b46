"""Freed memory stays with the process: the kernel is not asked for the same pages again and again."""

import json
import platform
import subprocess
import sys

import pytest

MEGABYTES = 48
CODE = f"""
import json, resource, torch
from harness.hardware import give_back, keep_freed_memory

def faults(rounds):  # pages that the kernel had to bring while a tensor was made and thrown away
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.zeros({MEGABYTES} << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory()
faults(12)  # until the holes that alignment leaves have grown together
many = faults(20)
give_back()
print(json.dumps([kept, many, faults(1), {MEGABYTES} * 2**20 // resource.getpagesize()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_is_taken_again_without_the_kernel():
    """In a process of its own: what other tests have left in the heap of this one is not asked about."""
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kept, many, after, pages = json.loads(said.stdout)
    assert kept
    assert many < pages  # each round would bring them all
    assert after > pages // 1000  # given back; large pages count once
