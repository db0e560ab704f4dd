# Sending to a channel: the common case at once, everything else one step at a time.

cdef enum:
    WAIT_FULL = 1
    WAIT_BUSY = 2
    WAIT_OPEN = 3
    WAIT_LARGE = 4

needs_room, needs_table, needs_row, needs_parcel = WAIT_FULL, WAIT_BUSY, WAIT_OPEN, WAIT_LARGE


cdef int place_of(Endpoint self, object channel, row_view *view) except -1:
    """Row and number of members of a channel; TABLE_OK, TABLE_ABSENT (members by prefix only) or TABLE_BUSY."""
    cdef cached_name *cached = &self.names[(<uintptr_t><PyObject *>channel >> 4) & (NAME_CACHE - 1)]
    cdef Py_ssize_t length
    cdef const char *text
    cdef int status
    if cached.key == <PyObject *>channel:
        if table_members(&self.segment.c, cached.row, cached.generation, view) == TABLE_OK:
            return TABLE_OK
    if type(channel) is str:
        try:
            text = PyUnicode_AsUTF8AndSize(channel, &length)
        except UnicodeEncodeError:
            raise BadChannelName(channel, "is not valid text") from None
    elif type(channel) is bytes:
        text, length = PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel)
    else:
        channel = _name_bytes(channel)  # subclasses, or a TypeError
        text, length = PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel)
    if not table_name_ok(<const uint8_t *>text, length):
        _name_bytes(channel)
    status = table_look(&self.segment.c, <const uint8_t *>text, length,
                        table_hash(&self.segment.c, <const uint8_t *>text, length, False), view)
    if status == TABLE_OK:
        Py_INCREF(channel)
        Py_XDECREF(cached.key)
        cached.key = <PyObject *>channel
        cached.row, cached.generation = view.row, view.generation
    return status


cdef bint put_up(Endpoint self, const record *header, const void *name, const void *body) except -1:
    """One record to the router; False: the ring is full."""
    cdef int status = endpoint_send(&self.c, header, name, body)
    if status != RING_OK and status != RING_FULL:
        raise SegmentError("the ring to the router is broken; this worker has to be replaced")
    return status == RING_OK


cdef inline Py_ssize_t send_at_once(Endpoint self, object channel, object data) except -1:
    """The common case: bytes, a name seen before, room in the ring.  0: go the general way."""
    cdef row_view view
    cdef Py_ssize_t size
    cdef cached_name *cached = &self.names[(<uintptr_t><PyObject *>channel >> 4) & (NAME_CACHE - 1)]
    if type(data) is not bytes or cached.key != <PyObject *>channel or self.senders_waiting:
        return 0
    size = PyBytes_GET_SIZE(data)
    if <uint64_t>size > self.at_once_max or table_members(
            &self.segment.c, cached.row, cached.generation, &view) != TABLE_OK or view.members == 0:
        return 0
    if endpoint_message(&self.c, view.row, view.generation, PyBytes_AS_STRING(data), size) != RING_OK:
        return 0
    shared_plus(&self.counters[0], 1)
    shared_plus(&self.counters[1], size)
    return view.members


cdef Py_ssize_t send_generally(Endpoint self, object channel, object data, bytes event, bint again, int *need) except -1:
    """Workers that listen; or 0 and in `need` what has to happen first."""
    cdef row_view view
    cdef record header
    cdef Py_buffer buffer
    cdef const char *body
    cdef Py_ssize_t size
    cdef bint held = False
    cdef int status
    need[0] = 0
    if type(data) is bytes:
        body, size = PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
    else:
        if isinstance(data, str):
            raise TypeError("data must be bytes-like, not str; encode it first: data.encode()")
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        held = True
        body, size = <const char *>buffer.buf, buffer.len
    try:
        if <uint64_t>size > self.message_max:
            raise MessageTooBig(size, self.message_max)
        status = place_of(self, channel, &view)
        if status == TABLE_BUSY:
            need[0] = WAIT_BUSY
            return 0
        if view.members == 0:
            return 0
        if status == TABLE_ABSENT:
            need[0] = WAIT_OPEN
            return 0
        header.name_length = 0 if event is None else <uint8_t>PyBytes_GET_SIZE(event)
        if <uint64_t>size + header.name_length > ring_body_max(self.c.up.capacity):
            need[0] = WAIT_LARGE
            return 0
        if self.senders_waiting and not again:
            need[0] = WAIT_FULL
            return 0
        header.length = <uint32_t>(sizeof(record) + size + header.name_length)
        header.type, header.flags, header.hops = RECORD_MESSAGE, FLAG_FIRST | FLAG_LAST, 0
        header.destination = header.sequence = header.time_ns = 0
        header.row, header.row_generation = view.row, view.generation
        if not put_up(self, &header, NULL if event is None else PyBytes_AS_STRING(event), body):
            need[0] = WAIT_FULL
            return 0
        shared_plus(&self.counters[0], 1)
        shared_plus(&self.counters[1], size)
        return view.members
    finally:
        if held:
            PyBuffer_Release(&buffer)


cdef object _DEFAULT_TIMEOUT = -1.0


def channel_send(channel, data, *, timeout=_DEFAULT_TIMEOUT):
    """Send `data` to every subscriber of `channel` on this host.

    Copies `data` before it returns; waits cooperatively while the router is behind.  Runs in: worker, any thread.

    Args:
        channel: 1 to 255 bytes of UTF-8 without control characters.
        data: Bytes-like, at most `settings.message_max` bytes.
        timeout: Seconds to wait for room; None waits for ever; without it, `settings.send_timeout`.

    Returns:
        How many workers had subscribers when it was sent; 0: nobody, and nothing was sent.

    Raises:
        RingFull: No room within `timeout`; nothing was sent.
        MessageTooBig: It can never be sent.
        BadChannelName, TypeError: The arguments; nothing was sent.
        NotAttached, ForkedProcess: This process is no worker.
    """
    cdef int need = 0
    cdef Py_ssize_t members
    cdef Endpoint self = _endpoint
    if self is None:
        raise NotAttached("channel_send")
    if not segment_here(&self.segment.c):
        raise ForkedProcess("channel_send")
    members = send_at_once(self, channel, data)
    if members:
        return members
    members = send_generally(self, channel, data, None, False, &need)
    if need == 0:
        return members
    return self.slow_send(channel, data, None, timeout, need)
