# The segment, its slots and counters.

layout_id = LAYOUT_ID
slots_max = SLOTS_MAX

_WORKER_COUNTERS = (
    "sent", "sent_bytes", "received", "received_bytes", "missed", "dropped",
    "alerts_sent", "alerts_received", "alerts_unhandled", "alerts_dropped",
    "stale", "wakeups", "late_wakeups", "broken_rings",
    "connections", "connections_total", "requests_running", "requests_total", "request_errors", "streams",
    "requests_timed_out", "keys_number", "keys_since_ns", "keys_own", "keys_guest",
)
_ROUTER_COUNTERS = (
    "turns", "records", "deliveries", "bytes",
    "spilled", "dropped", "dropped_dead", "stale", "table_full", "quarantined", "kicks", "wakeups", "rows_used",
)

cdef extern from *:
    """
    _Static_assert(sizeof(struct worker_counters) == 25 * sizeof(shared64), "_WORKER_COUNTERS names each of them");
    _Static_assert(sizeof(struct router_counters) == 13 * sizeof(shared64), "_ROUTER_COUNTERS names each of them");
    """

worker_counter_index = {name: index for index, name in enumerate(_WORKER_COUNTERS)}


def segment_size(int slots, int up_bytes, int down_bytes, int direct_bytes, int rows):
    """Bytes that a segment of these sizes takes; ValueError when it cannot be laid out."""
    cdef segment_config config
    cdef geometry at
    config.slots, config.up_bytes, config.down_bytes = slots, up_bytes, down_bytes
    config.direct_bytes, config.rows = direct_bytes, rows
    if segment_geometry(&config, &at) != SEGMENT_OK:
        raise ValueError(_BAD_SIZES)
    return at.size


_BAD_SIZES = (
    "rings must be powers of two from 4 KiB to 1 GiB, the ring down to a worker no smaller than the one up, "
    "2 to 256 slots, 16 to 67,108,864 channels"
)


cdef class Segment:
    """A sealed memfd mapped into this process."""

    cdef segment c
    cdef readonly bint entered

    @staticmethod
    def create(int slots, int up_bytes, int down_bytes, int direct_bytes, int rows, bytes hash_key, uint64_t epoch_us):
        """Make, seal, allocate and map one.  `hash_key`: 16 random bytes.  Raises SegmentError, ValueError."""
        cdef Segment self = Segment.__new__(Segment)
        cdef segment_config config
        cdef uint64_t key[2]
        if len(hash_key) != 16:
            raise ValueError("hash_key must be 16 bytes")
        memcpy(key, PyBytes_AS_STRING(hash_key), 16)
        config.slots, config.up_bytes, config.down_bytes = slots, up_bytes, down_bytes
        config.direct_bytes, config.rows = direct_bytes, rows
        cdef segment_status status = segment_create(&self.c, &config, key, epoch_us)
        if status == SEGMENT_BAD_SIZES:
            raise ValueError(_BAD_SIZES)
        if status != SEGMENT_OK:
            raise SegmentError(
                f"cannot allocate {segment_size(slots, up_bytes, down_bytes, direct_bytes, rows)} bytes of shared "
                f"memory: {os.strerror(errno)}; lower `channels_max`, the ring sizes or `max_workers`"
            )
        return self

    @staticmethod
    def attach(int fd):
        """Map one that another process made, after checking seals, layout and size.  Raises SegmentError."""
        cdef Segment self = Segment.__new__(Segment)
        cdef segment_status status = segment_attach(&self.c, fd)
        if status == SEGMENT_OTHER_LAYOUT:
            raise SegmentError("this segment was made by a version with another layout")
        if status == SEGMENT_NOT_OURS:
            raise SegmentError(f"file descriptor {fd} is not a channels segment")
        if status != SEGMENT_OK:
            raise SegmentError(f"cannot map file descriptor {fd}: {os.strerror(errno)}")
        return self

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))
        self.c.fd = -1

    def __dealloc__(self):
        segment_unmap(&self.c)

    cdef int check(self) except -1:
        if not segment_here(&self.c):
            raise ForkedProcess("the segment")
        return 0

    cdef int check_slot(self, uint32_t slot) except -1:
        self.check()
        if slot == ROUTER_SLOT or slot >= self.c.at.slots:
            raise ValueError(f"slot {slot} is not one of 1 to {self.c.at.slots - 1}")
        return 0

    def enter(self, str role, uint32_t slot=0):
        """Protect all but the own region: "supervisor", "router", "worker" (with its slot) or "observer"."""
        self.check()
        cdef segment_role which = {
            "supervisor": ROLE_SUPERVISOR, "router": ROLE_ROUTER, "worker": ROLE_WORKER, "observer": ROLE_OBSERVER
        }[role]
        if which == ROLE_WORKER:
            self.check_slot(slot)
        if segment_enter(&self.c, which, slot) != SEGMENT_OK:
            raise SegmentError(f"cannot protect the segment: {os.strerror(errno)}")
        self.entered = which != ROLE_SUPERVISOR

    def close(self):
        """Unmap; the descriptor stays open."""
        segment_unmap(&self.c)

    def forget_fd(self):
        """Close the descriptor, by which all of it could be mapped for writing again; the mapping stays."""
        if self.c.fd >= 0:
            os.close(self.c.fd)
            self.c.fd = -1

    @property
    def fd(self):
        return self.c.fd

    @property
    def size(self):
        return self.c.at.size

    @property
    def slots(self):
        return self.c.at.slots

    @property
    def rows(self):
        return self.c.at.rows

    @property
    def epoch_us(self):
        return self.c.epoch_us

    @property
    def ring_bytes(self):
        """Capacities: (worker to router, router to worker, worker to worker)."""
        return self.c.at.up_bytes, self.c.at.down_bytes, self.c.at.direct_bytes

    def set_slot(self, uint32_t slot, uint64_t generation, uint64_t pid):
        """Supervisor: who holds the slot; an even generation: nobody."""
        self.check_slot(slot)
        cdef slot_entry *entry = &segment_supervisor(&self.c).slot[slot]
        shared_put(&entry.pid, pid)
        shared_put(&entry.generation, generation)

    def set_owner(self, uint64_t role, expect=None):
        """Supervisor: who routes, while there are two masters; with `expect` by compare-and-swap.  True: it is set."""
        self.check()
        cdef shared64 *owner = &segment_supervisor(&self.c).owner
        if expect is not None:
            return shared_swap(owner, expect, role)
        shared_put(owner, role)
        return True

    @property
    def owner(self):
        self.check()
        return shared_get_acquire(&segment_supervisor(&self.c).owner)

    def slot(self, uint32_t slot):
        """(generation, pid, attached generation, ready generation, heartbeat in monotonic ns)."""
        self.check_slot(slot)
        cdef slot_entry *entry = &segment_supervisor(&self.c).slot[slot]
        cdef worker_control *worker = segment_worker(&self.c, slot)
        return (
            shared_get_acquire(&entry.generation), shared_get(&entry.pid), shared_get_acquire(&worker.attached),
            shared_get(&worker.ready), shared_get(&worker.heartbeat_ns),
        )

    def worker_counters(self, uint32_t slot):
        """Everything that the worker in this slot has counted, by name."""
        self.check_slot(slot)
        cdef shared64 *first = <shared64 *>&segment_worker(&self.c, slot).count
        return {name: shared_get(&first[i]) for i, name in enumerate(_WORKER_COUNTERS)}

    def worker_counter(self, uint32_t slot, int index):
        """One of them, by its place in `worker_counter_index`."""
        self.check_slot(slot)
        if not 0 <= index < len(_WORKER_COUNTERS):
            raise IndexError(index)
        return shared_get(&(<shared64 *>&segment_worker(&self.c, slot).count)[index])

    def router_counters(self):
        """Everything that the router has counted, by name."""
        self.check()
        cdef shared64 *first = <shared64 *>&segment_router(&self.c).count
        return {name: shared_get(&first[i]) for i, name in enumerate(_ROUTER_COUNTERS)}

    def router_heartbeat_ns(self):
        self.check()
        return shared_get(&segment_router(&self.c).heartbeat_ns)

    def look(self, name):
        """What a sender sees of a channel: (workers that listen, whether anyone joined this very name)."""
        self.check()
        cdef row_view view
        cdef bytes raw = _name_bytes(name)
        cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(raw)
        cdef uint64_t hashed = table_hash(&self.c, text, len(raw), False)
        if table_look(&self.c, text, len(raw), hashed, &view) == TABLE_BUSY:
            raise BlockingIOError("the table is being changed")
        return view.members, view.exact

    def read_bytes(self, uint64_t offset, uint64_t size):
        """A copy of raw bytes: for tests and the doctor."""
        self.check()
        if offset > self.c.at.size or size > self.c.at.size - offset:
            raise ValueError("outside of the segment")
        return PyBytes_FromStringAndSize(<char *>self.c.base + offset, size)


cdef bytes _name_bytes(object name):
    """UTF-8 of a channel's name, checked.  Raises BadChannelName, TypeError."""
    cdef bytes raw
    if isinstance(name, str):
        try:
            raw = (<str>name).encode()
        except UnicodeEncodeError:
            raise BadChannelName(name, "is not valid text") from None
    elif isinstance(name, bytes):
        raw = <bytes>name
    else:
        raise TypeError(f"a channel's name is str or UTF-8 bytes, not {type(name).__name__}")
    if not table_name_ok(<const uint8_t *>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw)):
        _bad_name(name, raw)
    return raw


cdef int _bad_name(object name, bytes raw) except -1:
    if not raw:
        raise BadChannelName(name, "is empty")
    if len(raw) > 255:
        raise BadChannelName(name, f"has {len(raw)} bytes")
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise BadChannelName(name, "is not UTF-8") from None
    raise BadChannelName(name, "has control characters")


def check_name(name):
    """The name as `str`, checked as channel_join does."""
    return _name_bytes(name).decode()


cdef extern from *:
    """
    #include <malloc.h>
    static int keep_heap_top(int keep, int mapped) {
    #ifdef M_TRIM_THRESHOLD
        return mallopt(M_TRIM_THRESHOLD, keep) && mallopt(M_MMAP_THRESHOLD, mapped) && mallopt(M_TOP_PAD, 1 << 20);
    #else
        (void)keep, (void)mapped;
        return 0;
    #endif
    }
    """
    bint keep_heap_top(int keep, int mapped)


def keep_heap(int keep=16 << 20, int mapped=4 << 20):
    """Let the C library keep up to `keep` bytes of freed heap, and take bodies below `mapped` bytes from it.

    Without it, glibc gives the heap's top back after each batch of bodies and faults it in again for the next one.
    False: nothing was changed, for the C library is another, or its variables say what is wanted (mallopt(3)).
    """
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
            name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")):
        return False
    return keep_heap_top(keep, mapped)
