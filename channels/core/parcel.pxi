# Parcels: bodies that go to peers, in one record or in fragments.

cdef struct target:
    uint32_t slot
    uint64_t generation, offset
    uint32_t fragment
    bint done, gone, started, abort_due


cdef uint64_t _next_parcel = 0


cdef class Parcel:
    """A body on its way to peers, in one record or in fragments; it copies nothing and waits for nobody."""

    cdef Endpoint endpoint
    cdef Py_buffer buffer
    cdef bint held
    cdef record header
    cdef bytes name
    cdef target *targets
    cdef Py_ssize_t target_count
    cdef readonly uint32_t message_id

    def __cinit__(self, Endpoint endpoint, int kind, int flags, int hops, uint64_t correlation, bytes name, data, targets):
        global _next_parcel
        if isinstance(data, str):
            raise TypeError("data must be bytes-like, not str; encode it first: data.encode()")
        endpoint.here()
        self.endpoint, self.name = endpoint, name
        PyObject_GetBuffer(data, &self.buffer, PyBUF_SIMPLE)
        self.held = True
        if <uint64_t>self.buffer.len > endpoint.message_max:
            raise MessageTooBig(self.buffer.len, endpoint.message_max)
        self.target_count = len(targets)
        self.targets = <target *>calloc(self.target_count + 1, sizeof(target))
        if self.targets == NULL:
            raise MemoryError()
        for i, (slot, generation) in enumerate(targets):
            self.targets[i].slot, self.targets[i].generation = slot, generation
        memset(&self.header, 0, sizeof(record))
        self.header.type, self.header.flags, self.header.hops = kind, flags, hops
        self.header.sequence = correlation
        _next_parcel = (_next_parcel + 1) & 0xffffffff
        self.message_id = _next_parcel

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)
        free(self.targets)

    @property
    def size(self):
        return self.buffer.len

    def pump(self, int records):
        """Put in what fits, at most so many records for each target; True when nothing is left to put."""
        cdef Py_ssize_t i
        cdef bint done = True
        self.endpoint.here()
        for i in range(self.target_count):
            if not self.targets[i].done:
                self._fill(&self.targets[i], records)
                done = done and self.targets[i].done
        return done

    cdef int _fill(self, target *to, int records) except -1:
        cdef outgoing *peer
        cdef record header
        cdef uint64_t most = ring_body_max(self.endpoint.segment.c.at.direct_bytes)
        cdef uint64_t left, part
        cdef int status
        cdef uint8_t name_length
        cdef bint whole = <uint64_t>self.buffer.len + len(self.name) <= most and self.header.type != RECORD_BODY
        while not to.done and records > 0:
            records -= 1
            peer = endpoint_peer(&self.endpoint.c, to.slot, to.generation)
            if peer == NULL:
                to.done = to.gone = True
                return 0
            header = self.header
            left = <uint64_t>self.buffer.len - to.offset
            name_length = 0 if to.started else len(self.name)
            part = left if left + name_length <= most else most - name_length
            header.name_length = name_length
            header.length = <uint32_t>(sizeof(record) + name_length + part)
            if whole:
                header.flags |= FLAG_FIRST | FLAG_LAST
            else:
                header.message_id, header.fragment, header.total = self.message_id, to.fragment, self.buffer.len
                header.flags |= (0 if to.started else FLAG_FIRST)
                if to.started and part == left:
                    header.flags |= FLAG_LAST
                elif part == left:  # one record would be "whole": leave a byte, or an empty fragment, for the last
                    part = left - 1 if left else 0
                    header.length = <uint32_t>(sizeof(record) + name_length + part)
            status = endpoint_put(&self.endpoint.c, peer, &header, PyBytes_AS_STRING(self.name),
                                  <const char *>self.buffer.buf + to.offset)
            if status == RING_FULL:
                return 0
            if status != RING_OK:  # its cursor cannot be: a broken worker
                endpoint_report(&self.endpoint.c, to.slot)
                to.done = to.gone = True
                return 0
            to.started = True
            to.offset += part
            to.fragment += 1
            if header.flags & FLAG_LAST:
                to.done = True
                if header.type == RECORD_ALERT:
                    shared_plus(&self.endpoint.counters[6], 1)
        return 0

    def give_up(self, slot=None, bint whole=False):
        """This target, or all that are not done, get nothing more.  True when they all know; else tell_aborted later.

        `whole`: nothing comes of it for those either that have got all of it.  An answer's caller is told though it has
        no part of it.
        """
        cdef Py_ssize_t i
        for i in range(self.target_count):
            if (whole or not self.targets[i].done) and (slot is None or self.targets[i].slot == slot):
                self.targets[i].abort_due = (self.targets[i].started or self._is_answer()) and not self.targets[i].gone
                self.targets[i].done = self.targets[i].gone = True
        if slot is None and self.held:
            PyBuffer_Release(&self.buffer)  # it may take long until they all know
            self.held = False
        return self.tell_aborted()

    def tell_aborted(self):
        """Tell those who are to know that no more will come; False when some ring had no room even for that."""
        cdef Py_ssize_t i
        cdef bint told = True
        for i in range(self.target_count):
            if self.targets[i].abort_due:
                self.targets[i].abort_due = not self._abort_one(&self.targets[i])
                told = told and not self.targets[i].abort_due
        return told

    cdef bint _is_answer(self):
        return self.header.type == RECORD_REPLY or self.header.type == RECORD_ERROR

    cdef bint _abort_one(self, target *to) except -1:
        cdef record header
        cdef outgoing *peer = endpoint_peer(&self.endpoint.c, to.slot, to.generation)
        if peer == NULL:
            return True
        memset(&header, 0, sizeof(record))
        header.length, header.type = sizeof(record), RECORD_ABORT
        header.flags = FLAG_FIRST | FLAG_LAST
        header.message_id = self.message_id
        if self._is_answer():
            header.sequence = self.header.sequence
        return endpoint_put(&self.endpoint.c, peer, &header, NULL, NULL) != RING_FULL

    @property
    def waiting(self):
        """[(slot, generation)] that have not got all of it."""
        return [(self.targets[i].slot, self.targets[i].generation) for i in range(self.target_count)
                if not self.targets[i].done]

    @property
    def delivered(self):
        """Slots that got all of it."""
        return [self.targets[i].slot for i in range(self.target_count)
                if self.targets[i].done and not self.targets[i].gone]

    @property
    def next_size(self):
        """Bytes of body that the next record needs room for at most."""
        cdef uint64_t most = ring_body_max(self.endpoint.segment.c.at.direct_bytes)
        cdef uint64_t size = <uint64_t>self.buffer.len + len(self.name)
        return size if size < most else most
