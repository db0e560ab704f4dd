# Messages as the frames that their clients read; frame.h has the formats.

SSE, SSE_CHUNKED, WS_TEXT, WS_BINARY = FRAME_SSE, FRAME_SSE_CHUNKED, FRAME_WS_TEXT, FRAME_WS_BINARY

cdef bint _frame(frame_buffer *buffer, int kind, Message message):
    cdef frame_facts facts
    facts.epoch, facts.number = message.epoch, message.number
    facts.event, facts.event_size = NULL, 0
    if message.event_name is not None:
        facts.event = <const uint8_t *>PyBytes_AS_STRING(message.event_name)
        facts.event_size = PyBytes_GET_SIZE(message.event_name)
    facts.body, facts.body_size = <const uint8_t *>PyBytes_AS_STRING(message.data), PyBytes_GET_SIZE(message.data)
    return frame_message(buffer, <frame_kind>kind, &facts)


cdef bint _gap(frame_buffer *buffer, int kind, uint64_t missed, str channel) except -1:
    cdef Py_ssize_t size = 0
    cdef const char *name = NULL
    if channel is not None:
        name = PyUnicode_AsUTF8AndSize(channel, &size)
    return frame_gap(buffer, <frame_kind>kind, missed, <const uint8_t *>name, size)


cdef bytes _taken(frame_buffer *buffer, bint done):
    try:
        if not done:
            raise MemoryError()
        return PyBytes_FromStringAndSize(<const char *>buffer.data, buffer.size)
    finally:
        frame_free(buffer)


def frame(int kind, Message message):
    """A message as a stream of this kind has it: SSE, SSE_CHUNKED, WS_TEXT (a binary frame if it is no UTF-8), WS_BINARY."""
    cdef frame_buffer buffer
    memset(&buffer, 0, sizeof(buffer))
    _check_kind(kind)
    return _taken(&buffer, _frame(&buffer, kind, message))


def gap_frame(int kind, uint64_t missed, str channel=None):
    """What tells a stream of this kind how many messages it missed, of a channel or of several: an event, a text message."""
    cdef frame_buffer buffer
    memset(&buffer, 0, sizeof(buffer))
    _check_kind(kind)
    return _taken(&buffer, _gap(&buffer, kind, missed, channel))


cdef int _check_kind(int kind) except -1:
    if not 0 <= kind < FRAME_KINDS:
        raise ValueError("no such kind of stream")
    return 0
