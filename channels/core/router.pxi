# The router's turn and what a policy has to answer for it.

_REASONS = {1: "broken ring", 2: "false source", 3: "bad record", 4: "bad cursor", 5: "broken direct ring"}


cdef class Router:
    """The router's private state.  Runs in: router, one per segment."""

    cdef router *c
    cdef Segment segment
    cdef int *eventfds

    def __cinit__(self, Segment segment, eventfds, *, uint64_t turn_records, uint64_t turn_bytes,
                  uint64_t spill_soft_bytes, uint64_t spill_hard_bytes, uint64_t spill_soft_ns, uint64_t row_idle_ns,
                  spilled=None):
        """`spilled`: {slot: (generation, what export_spill gave)} of a predecessor that was parked."""
        cdef router_limits limits
        cdef c_bool imports[256]
        segment.check()
        self.segment = segment
        self.eventfds = _eventfd_array(segment, eventfds)
        self.c = <router *>calloc(1, sizeof(router))
        if self.c == NULL:
            raise MemoryError()
        limits.turn_records, limits.turn_bytes = turn_records, turn_bytes
        limits.spill_soft_bytes, limits.spill_hard_bytes = spill_soft_bytes, spill_hard_bytes
        limits.spill_soft_ns, limits.row_idle_ns = spill_soft_ns, row_idle_ns
        memset(imports, 0, sizeof(imports))
        for slot, (generation, _) in (spilled or {}).items():
            if 0 < slot < segment.c.at.slots:
                imports[slot] = segment_attached(&segment.c, slot, generation) and (
                    segment_generation(&segment.c, slot) == generation)
        if not router_open(self.c, &segment.c, self.eventfds, &limits, imports, router_clock_ns(CLOCK_MONOTONIC),
                           router_clock_ns(CLOCK_REALTIME)):
            raise MemoryError("no memory for the router's tables")
        for slot, (generation, data) in (spilled or {}).items():
            if 0 < slot < segment.c.at.slots and imports[slot]:
                self.import_spill(slot, generation, data)

    def __dealloc__(self):
        if self.c != NULL:
            router_close(self.c)
            free(self.c)
        free(self.eventfds)

    def turn(self):
        """One bounded turn without the GIL; True when more could be done at once."""
        cdef c_bool more = False
        self.segment.check()
        with nogil:
            router_turn(self.c, router_clock_ns(CLOCK_MONOTONIC), router_clock_ns(CLOCK_REALTIME), &more)
        return more

    def look(self, uint64_t spin_ns):
        """Look for records for up to `spin_ns`, yielding the processor in between."""
        cdef bint found
        self.segment.check()
        with nogil:
            found = router_look(self.c, spin_ns)
        return found

    def sleep(self):
        """Ask to be woken; False when there is something to do after all."""
        self.segment.check()
        return router_sleep(self.c)

    def awake(self):
        """After the eventfd was seen readable: clear it, then say that we are awake."""
        self.segment.check()
        notify_clear(self.eventfds[0])
        router_awake(self.c)

    def heartbeat(self):
        self.segment.check()
        shared_put(&self.c.control.heartbeat_ns, router_clock_ns(CLOCK_MONOTONIC))

    def events(self):
        """What happened since the last call: ("attached" | "quarantine" | "prefix", slot, generation, detail)."""
        cdef router_event event
        found = []
        while router_next_event(self.c, &event):
            if event.type == EVENT_ATTACHED:
                found.append(("attached", event.slot, event.generation, ""))
            elif event.type == EVENT_QUARANTINE:
                found.append(("quarantine", event.slot, event.generation, _REASONS[event.detail]))
            elif event.type == EVENT_PREFIX:
                found.append(("prefix", event.slot, event.generation, ""))
        return found

    def prefix_pending(self, uint32_t slot):
        """The prefix that the worker in this slot wants to join, or leave: (name, is_leave), or None."""
        cdef uint8_t name[256]
        cdef uint32_t length = 0
        cdef c_bool leave = False
        self.segment.check_slot(slot)
        if not router_prefix_pending(self.c, slot, name, &length, &leave):
            return None
        return PyBytes_FromStringAndSize(<char *>name, length), leave

    def prefix(self, uint32_t slot, rows):
        """Carry it out; `rows`: numbers of the channels with that prefix."""
        cdef uint32_t count = len(rows)
        cdef uint32_t *numbers = <uint32_t *>malloc((count + 1) * sizeof(uint32_t))
        self.segment.check_slot(slot)
        if numbers == NULL:
            raise MemoryError()
        try:
            for i, number in enumerate(rows):
                numbers[i] = number
            router_prefix(self.c, slot, numbers, count)
        finally:
            free(numbers)

    def bury(self, uint32_t slot, uint64_t generation):
        """Clean up after a dead worker; may be repeated.  Raises MemoryError; ask again then."""
        cdef c_bool done
        self.segment.check_slot(slot)
        with nogil:
            done = router_bury(self.c, slot, generation)
        if not done:
            raise MemoryError("no memory for a burial")

    def names(self):
        """Every channel: [(row, name)]."""
        cdef uint32_t row, length
        cdef const uint8_t *name
        found = []
        self.segment.check()
        for row in range(self.segment.c.at.rows):
            if table_is_used(&self.c.table, row) and not table_is_prefix(&self.c.table, row):
                name = table_row_name(&self.c.table, row, &length)
                found.append((row, PyBytes_FromStringAndSize(<const char *>name, length)))
        return found

    def members(self, uint32_t row):
        """Slots in a row's bitmap, in order."""
        cdef uint64_t bitmap[4]
        cdef uint32_t i
        self.segment.check()
        if row >= self.segment.c.at.rows:
            raise ValueError(f"row {row} is not in the table")
        cdef uint64_t version = shared_get(<shared64 *>segment_row(&self.segment.c, row))
        if table_bitmap(&self.segment.c, row, <uint32_t>(version >> 1), bitmap) != TABLE_OK:
            return []
        return [i for i in range(self.segment.c.at.slots) if bitmap[i // 64] >> (i % 64) & 1]

    def row(self, uint32_t row):
        """(name, last number given) of a row; an empty name when it is free."""
        cdef uint32_t length
        cdef const uint8_t *name
        self.segment.check()
        if row >= self.segment.c.at.rows or not table_is_used(&self.c.table, row):
            return b"", 0
        name = table_row_name(&self.c.table, row, &length)
        return PyBytes_FromStringAndSize(<const char *>name, length), self.c.shadow[row].sequence

    def start_journal(self):
        """From here on remember which rows are made and freed, for take_journal()."""
        self.c.journal_on = True
        self.c.journal_lost = False
        self.c.journal_count = 0

    def take_journal(self):
        """[(row, name or None when it is free now)], or None when there were too many to remember."""
        cdef uint32_t i, row, length
        cdef const uint8_t *name
        if self.c.journal_lost:
            self.c.journal_lost = False
            self.c.journal_count = 0
            return None
        changed = []
        for i in range(self.c.journal_count):
            row = self.c.journal[i]
            if table_is_used(&self.c.table, row) and not table_is_prefix(&self.c.table, row):
                name = table_row_name(&self.c.table, row, &length)
                changed.append((row, PyBytes_FromStringAndSize(<const char *>name, length)))
            else:
                changed.append((row, None))
        self.c.journal_count = 0
        return changed

    def spilled_bytes(self, uint32_t slot):
        """Bytes that wait in private memory for the worker in this slot."""
        self.segment.check_slot(slot)
        return self.c.lane[slot].spill.bytes

    def export_spill(self, uint32_t slot):
        """Everything that is spilled for this slot, for a successor in another master; this one is not to route on."""
        self.segment.check_slot(slot)
        fanout_seal(self.c, slot)
        cdef bytes data = PyBytes_FromStringAndSize(NULL, self.c.lane[slot].spill.bytes)
        spill_copy(&self.c.lane[slot].spill, <uint8_t *>PyBytes_AS_STRING(data))
        return data

    def import_spill(self, uint32_t slot, uint64_t generation, bytes data):
        """What a predecessor exported; False when it is not for the worker that is there now, or makes no sense."""
        self.segment.check_slot(slot)
        if not self.c.lane[slot].attached or self.c.lane[slot].generation != generation:
            return False
        return fanout_import(self.c, slot, <const uint8_t *>PyBytes_AS_STRING(data), len(data))

    @property
    def live(self):
        """{slot: generation} of the attached workers."""
        return {slot: self.c.lane[slot].generation for slot in range(1, self.segment.c.at.slots)
                if self.c.lane[slot].attached}


cdef int *_eventfd_array(Segment segment, eventfds) except NULL:
    if len(eventfds) != segment.c.at.slots:
        raise ValueError(f"{segment.c.at.slots} eventfds are needed, one per slot; got {len(eventfds)}")
    cdef int *array = <int *>calloc(segment.c.at.slots, sizeof(int))
    if array == NULL:
        raise MemoryError()
    for i, fd in enumerate(eventfds):
        array[i] = fd
    return array
