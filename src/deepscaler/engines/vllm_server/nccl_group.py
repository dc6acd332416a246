"""A NCCL communicator with processes that this program's torch did not start, through NCCL's C interface.

`torch.distributed` would make these processes one world; a vLLM server has a world of its own. Signatures: `nccl.h` of
NCCL 2; the library is the one that torch has loaded.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import time

import torch
from torch import Tensor

from deepscaler.engines.vllm_server.nccl_wire import GiveUp
from deepscaler.types import RunError

LIMIT_S = 300.0  # of one collective, and of all ranks joining
POLL_S = 0.001
UNIQUE_ID_BYTES = 128
_UINT8, _FLOAT32, _SUM = 1, 7, 0  # ncclDataType_t, ncclRedOp_t


class _UniqueId(ctypes.Structure):
    _fields_ = (("internal", ctypes.c_byte * UNIQUE_ID_BYTES),)


@functools.cache
def _library() -> ctypes.CDLL:
    """Raises RunError where torch came without NCCL."""
    try:
        library = ctypes.CDLL("libnccl.so.2")
    except OSError as error:
        raise RunError(f"NCCL cannot be loaded ({error}); set vllm_weight_transfer = 'files'") from error
    comm, stream, size, number = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.ncclGetErrorString.restype = ctypes.c_char_p
    library.ncclGetErrorString.argtypes = [number]
    library.ncclGetUniqueId.argtypes = [ctypes.POINTER(_UniqueId)]
    library.ncclCommInitRank.argtypes = [ctypes.POINTER(comm), number, _UniqueId, number]
    library.ncclAllReduce.argtypes = [ctypes.c_void_p, ctypes.c_void_p, size, number, number, comm, stream]
    library.ncclBroadcast.argtypes = [ctypes.c_void_p, ctypes.c_void_p, size, number, number, comm, stream]
    library.ncclCommAbort.argtypes = [comm]
    return library


def _checked(result: int, what: str) -> None:
    if result != 0:
        said = _library().ncclGetErrorString(result).decode(errors="replace")
        raise RunError(f"NCCL failed to {what}: {said}; set vllm_weight_transfer = 'files' if this stays")


class NcclGroup:
    """Rank 0 of a group. device: the learner's GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._comm = ctypes.c_void_p()
        self._stream = torch.cuda.Stream(device)

    def unique_id(self) -> bytes:
        made = _UniqueId()
        _checked(_library().ncclGetUniqueId(ctypes.byref(made)), "make a unique id")
        return bytes(made)

    def join(self, unique_id: bytes, world_size: int, give_up: GiveUp) -> None:
        failures: list[Exception] = []

        def initialize() -> None:
            try:
                with torch.cuda.device(self._device):
                    wanted = _UniqueId.from_buffer_copy(unique_id)
                    done = _library().ncclCommInitRank(ctypes.byref(self._comm), world_size, wanted, 0)
                    _checked(done, "join the group of learner and server")
            except Exception as error:  # raised below
                failures.append(error)

        # Joining has no time limit of its own: where a rank never comes, the thread stays behind until the run ends.
        thread = threading.Thread(target=initialize, daemon=True, name="nccl-join")
        thread.start()
        _wait(lambda: not thread.is_alive(), give_up, "joining the group of learner and server")
        if failures:
            raise failures[0]
        one = torch.zeros(1, device=self._device)
        pointer, stream = one.data_ptr(), self._stream.cuda_stream
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.device(self._device):
            done = _library().ncclAllReduce(pointer, pointer, 1, _FLOAT32, _SUM, self._comm, stream)
        _checked(done, "reduce the first number")
        self._finish(give_up, "the first reduction")

    def broadcast(self, buffer: Tensor, give_up: GiveUp) -> None:
        pointer, stream = buffer.data_ptr(), self._stream.cuda_stream
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # which fills the buffer
        with torch.cuda.device(self._device):
            done = _library().ncclBroadcast(pointer, pointer, buffer.numel(), _UINT8, 0, self._comm, stream)
        _checked(done, "broadcast weights")
        self._finish(give_up, "a broadcast of weights")

    def empty(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    def close(self) -> None:
        """Ends what is under way, on all ranks."""
        if self._comm:
            _library().ncclCommAbort(self._comm)
            self._comm = ctypes.c_void_p()

    def _finish(self, give_up: GiveUp, what: str) -> None:
        done = torch.cuda.Event()
        done.record(self._stream)
        _wait(done.query, give_up, what)


def _wait(reached: GiveUp, give_up: GiveUp, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not reached():
        if give_up():
            raise RunError(f"{what} was given up: the server refused its part")
        if time.monotonic() > deadline:
            raise RunError(
                f"{what} did not end within {LIMIT_S:.0f} s: a rank is missing. Is a firewall between the machines? "
                "vllm_weight_transfer = 'files' needs no connection but HTTP and a shared directory"
            )
        time.sleep(POLL_S)
