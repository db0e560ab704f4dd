"""segment.c: whoever has entered it writes to its own region, and cannot help itself to more."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import fcntl
import mmap
import os
import re
import signal
import struct
from collections.abc import Iterator

import pytest

from channels.core import native
from channels.errors import SegmentError
from tests.children import in_child

ROLES = [("worker", 1), ("worker", 3), ("router", 0), ("observer", 0)]
WRITABLE = {"worker": 1, "router": 1, "observer": 0}  # mappings

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def segment() -> Iterator[native.Segment]:
    made = native.Segment.create(4, 65536, 65536, 4096, 64, os.urandom(16), 1)
    yield made
    made.close()
    os.close(made.fd)


def mappings() -> list[tuple[int, int, str]]:
    """(first address, bytes, permissions) of the segment's in this process."""
    with open("/proc/self/maps") as file:
        found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) .*/memfd:channels", file.read(), re.MULTILINE)
    return [(int(first, 16), int(last, 16) - int(first, 16), mode) for first, last, mode in found]


def dies_of(action: object) -> int:
    """The signal that ends a process which does this; 0: none."""
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        try:
            action()  # type: ignore[operator]
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(("role", "slot"), ROLES)
def test_one_region_is_writable_and_no_other_can_be_made_so(segment: native.Segment, role: str, slot: int) -> None:
    def try_everything() -> tuple[int, int, set[int], set[str]]:
        segment.enter(role, slot)
        segment.forget_fd()
        found = mappings()
        closed = [(first, size) for first, size, mode in found if "w" not in mode]
        errors, written = set(), set()
        for first, size in closed:
            assert libc.mprotect(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE) == -1
            errors.add(ctypes.get_errno())
            with open("/proc/self/mem", "r+b", buffering=0) as memory:  # writes past protections where it may
                memory.seek(first)
                try:
                    memory.write(b"x")
                    written.add("written")
                except OSError as error:
                    written.add(errno.errorcode[error.errno or 0])
        return sum(size for _, size, _ in found), len(found) - len(closed), errors, written

    size, writable, errors, written = in_child(try_everything)
    assert size == segment.size
    assert writable == WRITABLE[role]
    assert errors == {errno.EACCES}
    assert written <= {"EIO", "EFAULT"}


def test_no_descriptor_is_left_to_map_it_again(segment: native.Segment) -> None:
    def descriptors() -> list[str]:
        segment.enter("worker", 1)
        segment.forget_fd()
        segment.forget_fd()  # again is nothing
        assert segment.fd == -1
        return [name for name in map(readlink, os.listdir("/proc/self/fd")) if "memfd:channels" in name]

    assert in_child(descriptors) == []


def readlink(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # the directory's own
        return ""


@pytest.mark.parametrize(("role", "slot"), ROLES)
def test_a_stray_write_ends_whoever_makes_it(segment: native.Segment, role: str, slot: int) -> None:
    def write() -> list[int]:
        segment.enter(role, slot)
        libc.madvise(
            ctypes.c_void_p(mappings()[0][0]), ctypes.c_size_t(segment.size), mmap.MADV_DOFORK
        )  # so that grandchildren can try it for us
        return [
            dies_of(lambda first=first: ctypes.memset(first, 0, 1)) for first, _, mode in mappings() if "w" not in mode
        ]

    assert set(in_child(write)) == {signal.SIGSEGV}


def test_who_is_forked_by_a_worker_has_no_mapping(segment: native.Segment) -> None:
    def look() -> list[object]:
        segment.enter("worker", 1)
        result: list[object] = in_child(mappings)
        return result

    assert in_child(look) == []


def test_all_of_its_memory_is_there_from_the_start(segment: native.Segment) -> None:
    assert os.fstat(segment.fd).st_blocks * 512 >= segment.size


def test_nobody_can_change_its_size_or_take_the_seals_off(segment: native.Segment) -> None:
    for size in (0, segment.size - 4096, segment.size + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(segment.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_a_file_that_is_not_sealed_is_refused() -> None:
    fd = os.memfd_create("channels", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 1 << 20)
    with pytest.raises(SegmentError, match="not a channels"):
        native.Segment.attach(fd)
    os.close(fd)


HEADER = struct.Struct("<QIIQQ16s")  # magic, major, minor, the layout's hash, epoch, key; the geometry follows
GEOMETRY = struct.Struct("<10I17Q")


def sealed(data: bytes, size: int) -> int:
    fd = os.memfd_create("channels", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, data, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def refusal(data: bytes, size: int) -> str:
    """What is said to a segment with this header; "" when it is taken."""
    fd = sealed(data, size)
    try:
        native.Segment.attach(fd).close()
        return ""
    except SegmentError as error:
        return str(error)
    finally:
        os.close(fd)


@pytest.fixture
def header(segment: native.Segment) -> bytes:
    """Of a segment that is taken."""
    found = os.pread(segment.fd, HEADER.size + GEOMETRY.size, 0)
    assert HEADER.unpack_from(found)[3] == native.layout_id
    assert GEOMETRY.unpack_from(found, HEADER.size)[-1] == segment.size
    assert refusal(found, segment.size) == ""
    return found


@pytest.mark.parametrize(
    ("field", "said"),
    [(0, "not a channels segment"), (1, "another layout"), (3, "another layout")],
    ids=["magic", "major", "hash"],
)
def test_a_segment_of_another_make_is_refused_by_name(
    segment: native.Segment, header: bytes, field: int, said: str
) -> None:
    for bit in range(32 if field == 1 else 64):
        values = list(HEADER.unpack_from(header))
        values[field] ^= 1 << bit
        assert said in refusal(HEADER.pack(*values) + header[HEADER.size :], segment.size)


def test_a_segment_whose_parts_lie_elsewhere_is_refused(segment: native.Segment, header: bytes) -> None:
    geometry = GEOMETRY.unpack_from(header, HEADER.size)
    for field, right in enumerate(geometry):
        for wrong in {0, right - 1, right + 1, right * 2, right ^ 1 << 31, (1 << 32) - 1} - {right, -1}:
            values = [*geometry[:field], wrong, *geometry[field + 1 :]]
            made = header[: HEADER.size] + GEOMETRY.pack(*values)
            assert "not a channels segment" in refusal(made, segment.size), (field, wrong)


@pytest.mark.parametrize("more", [-4096, 4096])
def test_a_segment_of_another_size_than_its_header_says_is_refused(
    segment: native.Segment, header: bytes, more: int
) -> None:
    assert "not a channels segment" in refusal(header, segment.size + more)


def test_a_file_that_is_shorter_than_a_header_is_refused(header: bytes) -> None:
    for size in (0, 1, len(header) - 1):
        assert "not a channels segment" in refusal(header[:size], size)
