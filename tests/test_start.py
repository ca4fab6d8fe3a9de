"""How a service process begins: see `tracker.start`."""

import ctypes
import subprocess
import sys

import pytest

from tests.launched import ROOT
from tests.ports import free_port

# Prints how many blocks are mapped for a block of 4 MiB, after one of 16 MiB was freed (mallinfo2(3), `hblks`).
MAPPED_BLOCKS = """
import ctypes
from tracker.start import prepare_service, prepare_worker
class Info(ctypes.Structure):
    _fields_ = [(str(field), ctypes.c_size_t) for field in range(10)]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info
def mapped():
    return getattr(mallinfo2(), "3")
PREPARE
block = bytearray(16 << 20)
del block
before = mapped()
block = bytearray(4 << 20)
print(mapped() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer")
@pytest.mark.parametrize(
    ("prepare", "expected"),
    [("pass", "0"), ("prepare_service()", "1"), ("import os; prepare_worker(os.getppid())", "1")],
)
def test_a_large_block_of_a_service_goes_back_to_the_system_when_it_is_freed(prepare: str, expected: str) -> None:
    program = MAPPED_BLOCKS.replace("PREPARE", prepare)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env={}
    )
    assert done.stdout.strip() == expected


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer")
def test_the_operators_own_setting_of_the_allocator_wins() -> None:
    program = MAPPED_BLOCKS.replace("PREPARE", "prepare_service()")
    own = {"MALLOC_MMAP_THRESHOLD_": str(8 << 20)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env=own
    )
    assert done.stdout.strip() == "0"


# Each prints whether the garbage collector is on during the imports, whether it is on afterwards, and whether it passes
# over the modules then.
SERVICE = """
import gc, os
from tracker import lifecycle
from tracker.start import prepare_service, prepare_worker
PREPARE
during = gc.isenabled()
async def service():
    print(during, gc.isenabled(), gc.get_freeze_count() > 10_000)
lifecycle.run(service)
"""
LOCAL = """
import gc, os
from moto.server import ThreadedMotoServer
from tracker.local import __main__, runner
from tracker.start import prepare_service
prepare_service()
during = gc.isenabled()
def show(*_):
    print(during, gc.isenabled(), gc.get_freeze_count() > 10_000, flush=True)
    os._exit(0)
ThreadedMotoServer.start = runner.run = show
__main__.main(COMMAND)
"""


@pytest.mark.parametrize(
    "program",
    [
        SERVICE.replace("PREPARE", "prepare_service()"),
        SERVICE.replace("PREPARE", "prepare_worker(os.getppid())"),
        LOCAL.replace("COMMAND", "['run']"),
        LOCAL.replace("COMMAND", f"['broker', '--port', '{free_port()}']"),
    ],
    ids=["service", "worker", "make run", "broker"],
)
def test_the_garbage_collector_is_off_during_the_imports_and_passes_over_them_afterwards(program: str) -> None:
    if "moto" in program:
        pytest.importorskip("moto", reason="the local broker is moto")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.stdout == "False True True\n", done.stderr
