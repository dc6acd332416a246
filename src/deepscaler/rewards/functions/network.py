"""Switches off the network for this process and all that it starts, by a seccomp filter of the kernel.

Linux on x86-64 and ARM64; elsewhere, and where the kernel refuses filters, only Python's own sockets are refused.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
import sys

MESSAGE = "reward functions open no network connection unless the part says network = true"
# Linux: audit architecture, number of socket(2). io_uring can open sockets as well and has one number everywhere.
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING_SETUP = 425
_X32 = 0x40000000  # system calls of x86-64's second ABI
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # of classic BPF
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def switch_off() -> bool:
    """Whether the kernel enforces it. Unix sockets stay, as multiprocessing and asyncio need them."""
    sys.addaudithook(_refuse)
    machine = _MACHINES.get(platform.machine())
    if not sys.platform.startswith("linux") or machine is None:
        return False
    code = _filter(*machine)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook: Python's own sockets get an error that says why."""
    refused = event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
    if refused or (event == "socket.__new__" and arguments[1] not in (socket.AF_UNIX, -1)):
        raise PermissionError(errno.EPERM, MESSAGE)


def _filter(architecture: int, socket_number: int) -> bytes:
    """struct seccomp_data: number at 0, architecture at 4, first argument at 16. A jump counts instructions to skip."""
    steps = (
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, 7, architecture),  # another one, such as 32 bit: refuse
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, 5, 0, _X32),
        (_EQUAL, 4, 0, _IO_URING_SETUP),
        (_EQUAL, 0, 2, socket_number),  # anything else: allow
        (_LOAD, 0, 0, 16),
        (_EQUAL, 0, 1, socket.AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    )
    return b"".join(struct.pack("HBBI", *step) for step in steps)
