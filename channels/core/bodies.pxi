# Bodies too large for one record: fragments put together, and the record that gives a whole one its place.


@cython.final
@cython.no_gc
cdef class Assembly:
    """A body of which not all fragments have come."""

    cdef bytes name, data
    cdef uint64_t total, filled, source, correlation, since_ns
    cdef uint32_t next, message_id
    cdef uint8_t type, flags, hops
    cdef bint complete


cdef Assembly large_body(Endpoint self, const record *header, const uint8_t *body):
    """The body and its event that came directly, or None when it did not come whole."""
    cdef const large_payload *payload = <const large_payload *>body
    cdef uint32_t peer = WORKER_SLOT(header.source)
    cdef Assembly found
    key = (header.source, payload.message_id)
    if header.source != self.c.id and key not in self.assemblies and 0 < peer < self.segment.c.at.slots:
        drain_peer(self, peer, 1 << 30)  # it was put there before this record was sent
    found = self.assemblies.get(key)
    if found is None or not found.complete:
        if found is not None:
            drain_peer(self, peer, 1 << 30)
        if found is None or not found.complete:
            forget_body(self, key)
            return None
    forget_body(self, key)
    return found


cdef int forget_body(Endpoint self, object key) except -1:
    cdef Assembly found = self.assemblies.pop(key, None)
    if found is not None and found.data is not None:
        self.assembling -= found.total
    return 0


cdef int lose_body(Endpoint self, object key) except -1:
    """Forget one that will not come whole."""
    cdef Assembly found = self.assemblies.get(key)
    if found is not None:
        tell_lost(self, found.type, found.flags, found.source, found.correlation, found.name,
                  b"its body did not arrive whole")
        forget_body(self, key)
    return 0


cdef int tell_lost(Endpoint self, uint8_t kind, uint8_t flags, uint64_t source, uint64_t correlation, bytes name,
                   bytes why) except -1:
    """Of what is not taken, and somebody waits for: an answer becomes a failure, a call is refused."""
    if kind == RECORD_REPLY or kind == RECORD_ERROR:
        self.events.append(("reply", correlation, True, why, source))
    elif kind == RECORD_ALERT and flags & FLAG_CALL:
        self.events.append(("refused", source, correlation, name, why.decode()))
    return 0


cdef int discard_bodies(Endpoint self, uint64_t source) except -1:
    """Of a dead worker: nothing comes any more that would complete them or give them a place."""
    cdef Assembly assembly
    for key, assembly in list(self.assemblies.items()):
        if assembly.source == source:
            forget_body(self, key)
    return 0


cdef Assembly begun_body(Endpoint self, const record *header, const uint8_t *body):
    """An empty one, or None when there is no room for it.  Raises MemoryError where only a little is wanted."""
    cdef Assembly assembly = Assembly.__new__(Assembly)
    if header.total > self.message_max or self.assembling + header.total > self.assembly_max:
        return None
    assembly.source, assembly.message_id, assembly.total = header.source, header.message_id, header.total
    assembly.type, assembly.flags, assembly.hops = header.type, header.flags, header.hops
    assembly.correlation = header.sequence
    assembly.name = PyBytes_FromStringAndSize(<const char *>body, header.name_length)
    try:
        assembly.data = PyBytes_FromStringAndSize(NULL, header.total)
    except MemoryError:
        return None
    return assembly


cdef Assembly grown_body(Endpoint self, object key, const record *header, const uint8_t *body, uint64_t size):
    """The body that this fragment belongs to, grown by it; None when it is not to be kept.

    After a MemoryError it can be called again with the same fragment.
    """
    cdef Assembly assembly
    if header.flags & FLAG_FIRST:
        lose_body(self, key)
        assembly = begun_body(self, header, body)
        if assembly is None:
            tell_lost(self, header.type, header.flags, header.source, header.sequence, b"",
                      b"its body found no room where it was to be received: assembly_max, or memory")
            shared_plus(&self.counters[9], 1)
            return None
        self.assemblies[key] = assembly
        self.assembling += header.total
    else:
        assembly = self.assemblies.get(key)
    if assembly is None or assembly.complete:
        return assembly
    if header.fragment != assembly.next or size > assembly.total - assembly.filled:
        lose_body(self, key)
        shared_plus(&self.counters[9], 1)
        return None
    if header.flags & FLAG_LAST and assembly.filled + size != assembly.total:
        lose_body(self, key)
        return None
    memcpy(PyBytes_AS_STRING(assembly.data) + assembly.filled, body + header.name_length, size)
    assembly.filled += size
    assembly.next += 1
    if header.flags & FLAG_LAST:
        assembly.since_ns = router_clock_ns(CLOCK_MONOTONIC)
        assembly.complete = True
    return assembly
