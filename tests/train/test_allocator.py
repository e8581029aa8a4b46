"""Freed memory stays with the process: the kernel is not asked for the same pages again and again."""

import platform
import resource

import pytest
import torch

from harness.train.allocator import give_back, keep_freed_memory

MEGABYTES = 48


def faults(rounds: int) -> int:
    """Pages that the kernel had to bring while a tensor was made and thrown away."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.zeros(MEGABYTES << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_is_taken_again_without_the_kernel():
    assert keep_freed_memory()
    faults(12)  # until the holes that alignment leaves have grown together
    pages = MEGABYTES * 2**20 // resource.getpagesize()
    assert faults(20) < pages  # each round would bring them all
    give_back()
    assert faults(1) > pages // 1000  # large pages count once
