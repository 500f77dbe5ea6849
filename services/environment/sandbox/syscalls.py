"""Which system calls a sandboxed program may not make, as a seccomp filter: pure, no system call is made here.

The namespaces and the lack of capabilities are what contains a program; the filter takes away what would make that
harder to be sure of: new processes, sockets, other processes' memory, mounts and namespaces, key rings, memory that no
limit counts (memfd, System V), and every call that is newer than the list (`_NEW` and above are unknown to it).
A refused call fails with EPERM, a new one with ENOSYS, so that the C library falls back. A call of another
architecture's table (i386 or x32 on x86-64) ends the process.
"""

from __future__ import annotations

import errno
import platform
import struct

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000
_NEW = 424
_NEW_ALLOWED = (436, 439, 449)  # close_range, faccessat2, futex_waitv
# name: (x86-64, arm64 or None where there is none)
REFUSED: dict[str, tuple[int, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_setup": (206, 0),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "vmsplice": (278, 75),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
}
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def seccomp_filter(*, threads: bool, machine: str = "") -> bytes:
    """The program for SECCOMP_MODE_FILTER, 8 bytes per instruction.

    Args:
        threads: whether threads may be started; processes never may.
        machine: as `platform.machine()` says; this one's by default.

    Raises:
        ValueError: the machine's table of calls is not known here.
    """
    machine = machine or platform.machine()
    column = list(_AUDIT).index(machine)
    refused = sorted(number for numbers in REFUSED.values() if (number := numbers[column]) is not None)
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for number in _NEW_ALLOWED:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    program += [(_AT_LEAST, 0, 1, _NEW), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for number in refused:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    program += [(_EQUAL, 1, 0, _CLONE[machine]), (_RETURN, 0, 0, _ALLOW)]
    if threads:
        program += [(_LOAD, 0, 0, 16), (_HAS_BITS, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW)]
    program += [(_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
