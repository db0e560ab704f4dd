# Alerts that leave at once: a known name, bytes, room in the ring.  Everything else goes the general way.

cdef enum:
    NAMES_KNOWN = 1024

cdef object _general = None  # (what, targets left, name, data, flags, hops, timeout): waits for room, cuts, or refuses
cdef dict _alert_names = {}  # what callers name alerts by -> UTF-8, checked


def set_alerts_general(general):
    """What sends the alerts that do not leave at once."""
    global _general
    _general = general


cdef bytes _known_name(object name):
    cdef PyObject *found
    cdef bytes raw
    if type(name) is str or type(name) is bytes:
        found = PyDict_GetItem(_alert_names, name)
        if found != NULL:
            return <bytes>found
    raw = alert_name(name)
    if len(_alert_names) < NAMES_KNOWN and type(name) is str:
        _alert_names[name] = raw
    return raw


cdef Endpoint _alerting(str what):
    if _endpoint is None:
        raise NotAttached(what)
    _endpoint.here()
    return _endpoint


cdef int _hops(Endpoint self, uint64_t *source) except -1:
    """Which link of a chain of handlers an alert from here is; `source`: whose alert is handled here, else 0."""
    cdef PyObject *found
    cdef uint64_t hops
    source[0] = 0
    if not self.contexts:
        return 0
    found = PyDict_GetItem(self.contexts, self.getcurrent())
    if found == NULL:
        return 0
    if type(<object>found) is AlertQueue:
        if not (<AlertQueue>found).handling:
            return 0
        source[0], hops = (<AlertQueue>found).source, (<AlertQueue>found).hops
    else:
        source[0], hops = (<AlertContext>found).source, (<AlertContext>found).hops
    hops += 1
    if self.alert_hops_max and hops > self.alert_hops_max:
        raise AlertLoop(hops)
    return <int>(hops if hops < 255 else 255)


def alert_hops(Endpoint endpoint):
    """Which link of a chain of handlers an alert of the running greenlet's is.  Raises AlertLoop."""
    cdef uint64_t source
    return _hops(endpoint, &source)


cdef int _post(Endpoint self, str what, uint32_t slot, uint64_t generation, bytes name, object data, int hops,
               object timeout) except -1:
    cdef record header
    cdef int status
    if slot == self.c.slot:
        _general(what, [(slot, generation, "self")], name, data, 0, hops, timeout)
        return 0
    if type(data) is bytes and <uint64_t>PyBytes_GET_SIZE(data) <= self.message_max:
        header.length = <uint32_t>(sizeof(record) + PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(data))
        header.type, header.flags, header.hops = RECORD_ALERT, FLAG_FIRST | FLAG_LAST, <uint8_t>hops
        header.name_length = <uint8_t>PyBytes_GET_SIZE(name)
        header.sequence = header.total = 0
        header.message_id = header.fragment = 0
        status = put_alert(self, slot, generation, &header, name, PyBytes_AS_STRING(data))
        if status == RING_OK:
            shared_plus(&self.counters[6], 1)
            return 0
    else:
        status = RING_FULL
    _general(what, _note_left(None, slot, generation, status), name, data, 0, hops, timeout)
    return 0


def alert_send(pid, name, data, *, worker=None, timeout=None):
    """Send an alert to the worker with this process id, or, with pid None, to the one in slot `worker`.

    Waits cooperatively for room, at most `timeout` seconds (default `settings.send_timeout`).

    Raises:
        WorkerGone: No ready worker there; nothing was sent.
        RingFull: No room in time; nothing was delivered.
        BadAlertName, MessageTooBig, TypeError: The arguments; nothing was sent.
        AlertLoop: Sent by a handler that is the last of too long a chain.
    """
    cdef Endpoint self = _alerting("alerts.send")
    cdef uint64_t source, generation
    cdef int64_t slot
    cdef bytes raw = _known_name(name)
    cdef int hops = _hops(self, &source)
    if worker is not None:
        slot = worker
        generation = segment_generation(&self.segment.c, <uint32_t>slot) if 0 < slot < self.segment.c.at.slots else 0
        if not generation & 1 or shared_get_acquire(&segment_worker(&self.segment.c, <uint32_t>slot).ready) != generation:
            raise WorkerGone(worker)
    else:
        found = ready_worker(self.segment, pid) if isinstance(pid, int) and pid > 0 else None
        if found is None:
            raise WorkerGone(pid)
        slot, generation = found
    _post(self, "alerts.send", <uint32_t>slot, generation, raw, data, hops, timeout)


def alert_broadcast(name, data, *, timeout=None):
    """Send an alert to every ready worker, the sender included.

    Raises:
        RingFull: Some worker had no room in time; the others have got it.
        BadAlertName, MessageTooBig, TypeError, AlertLoop: Nothing was sent.
    """
    cdef Endpoint self = _alerting("alerts.broadcast")
    cdef uint64_t source
    cdef bytes raw = _known_name(name)
    cdef int hops = _hops(self, &source)
    left = send_alerts(self, None, 0, hops, 0, raw, data)
    if left is not None:
        _general("alerts.broadcast", left, raw, data, 0, hops, timeout)


def alert_reply(name, data, *, timeout=None):
    """Inside a handler: send an alert back to the worker whose alert is being handled.

    Raises:
        RuntimeError: Not inside a handler.
        WorkerGone, RingFull, BadAlertName, MessageTooBig, TypeError, AlertLoop: As send().
    """
    cdef Endpoint self = _alerting("alerts.reply")
    cdef uint64_t source
    cdef bytes raw = _known_name(name)
    cdef int hops = _hops(self, &source)
    if source == 0:
        raise RuntimeError("alerts.reply works inside a handler only; use alerts.send(pid, ...)")
    _post(self, "alerts.reply", WORKER_SLOT(source), WORKER_GENERATION(source), raw, data, hops, timeout)


cdef bint answer_at_once(AlertQueue queue, object result) except -1:
    """What a handler returned goes back to the caller; False: the general way."""
    cdef Endpoint self = queue.endpoint
    cdef outgoing *peer
    cdef record header
    cdef Py_ssize_t size = 0
    if result is not None:
        if type(result) is not bytes:
            return False
        size = PyBytes_GET_SIZE(result)
    if WORKER_SLOT(queue.source) == self.c.slot or not segment_here(&self.segment.c):
        return False
    if <uint64_t>size > ring_body_max(self.segment.c.at.direct_bytes) or <uint64_t>size > self.message_max:
        return False
    peer = endpoint_peer(&self.c, WORKER_SLOT(queue.source), WORKER_GENERATION(queue.source))
    if peer == NULL:
        return True  # nobody waits for it any more
    header.length = <uint32_t>(sizeof(record) + size)
    header.type, header.flags, header.hops = RECORD_REPLY, FLAG_FIRST | FLAG_LAST, 0
    if result is None:
        header.flags |= FLAG_NONE
    header.name_length = 0
    header.sequence = queue.correlation
    header.message_id = header.fragment = 0
    header.total = 0
    return endpoint_put(&self.c, peer, &header, NULL, NULL if result is None else PyBytes_AS_STRING(result)) == RING_OK
