# Clients that receive channels without a greenlet each: frames built once per group, written to all of it in one loop.

cdef enum:
    BATCH_BYTES = 48 * 1024   # what a group gathers before it is written
    UNLOCK_FROM = 32          # clients from which a loop of system calls is worth giving the GIL away
    READY_AT_ONCE = 256

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    union epoll_data:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int op, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    int shutdown(int fd, int how)
    int SHUT_RDWR

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef void _release_holder(void *holder) noexcept:
    Py_DECREF(<object><PyObject *>holder)


@cython.final
cdef class Stream:
    """A client's connection that frames are written to; what it does not take at once waits, bounded."""

    cdef sink c
    cdef Streams streams
    cdef readonly StreamGroup group
    cdef uint32_t place       # in its group
    cdef readonly int kind
    cdef size_t limit
    cdef bint wants_write
    cdef uint64_t untold      # messages missed since the last gap was told
    cdef readonly uint64_t missed
    cdef object number        # its descriptor, as it is known by in Streams.by_fd
    cdef readonly bint ending
    cdef readonly bint ended
    cdef readonly bint cut    # it ended before all was written
    cdef public object owner  # the caller's
    cdef public bint want_room  # report "room" when nothing waits any more; once

    def __dealloc__(self):
        sink_clear(&self.c, _release_holder)

    @property
    def waiting(self):
        """Bytes that the client has not taken."""
        return self.c.waiting

    def fileno(self):
        return self.c.fd

    def send(self, bytes data):
        """Write whole frames behind what waits; True: taken at once.  The caller bounds what waits by `waiting`."""
        cdef size_t sent
        if self.ended or self.ending:
            return False
        sent = sink_send(&self.c, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        if sent == <size_t>PyBytes_GET_SIZE(data):
            return True
        self._hold(data, sent)
        return False

    def send_message(self, Message message):
        """The same with a message, framed, and the gap before it."""
        data = frame(self.kind, message)
        return self.send(gap_frame(self.kind, message.missed, message.channel) + data if message.missed else data)

    def end(self, bytes last):
        """Write what it missed and `last` behind what waits, and then report "done"; nothing more is taken."""
        if self.ended or self.ending:
            return
        self._leave(True)
        if self.ended:
            return
        if last:
            self.send(last)
        self.ending = True
        if self.c.gone or self.c.count == 0:
            try:
                self.streams._finish(self, "gone" if self.c.gone else "done")
            except MemoryError:
                self.streams._want(self, True)  # once more as soon as it is seen to have room

    cdef int _leave(self, bint tell_gap) except -1:
        """Out of every channel: what was gathered for it and what it missed go before whatever comes next."""
        if self.group is not None:
            self.group.flush()
        if tell_gap:
            try:
                self._tell_gap()
            except MemoryError:
                self._tear()
        self.untold = 0
        if self.group is not None:
            self.group._remove(self)
        return 0

    cdef int _hold(self, bytes data, size_t sent) except -1:
        if self.c.gone:
            self.streams._finish(self, "gone")
            return 0
        Py_INCREF(data)
        if not sink_hold(&self.c, <void *><PyObject *>data, <const uint8_t *>PyBytes_AS_STRING(data) + sent,
                         PyBytes_GET_SIZE(data) - sent):
            Py_DECREF(data)
            self._tear()
            return 0
        self.streams._want(self, True)
        return 0

    cdef void _tear(self) noexcept:
        """No memory for the rest of a frame: better no stream than one that goes on in the middle of it.

        It is finished by `ready`, which sees that it was shut down.
        """
        self.c.gone = True
        shutdown(self.c.fd, SHUT_RDWR)

    cdef int _late(self, bytes data, size_t sent, uint64_t messages, uint64_t gaps) except -1:
        """It did not take all of a batch with so many messages, before which `gaps` were lost."""
        if self.c.gone:
            self.streams._finish(self, "gone")
        elif sent != 0 or (not self.untold and (
                self.c.count == 0 or sink_behind(&self.c) + <size_t>PyBytes_GET_SIZE(data) <= self.limit)):
            self._hold(data, sent)
        elif messages or gaps:  # and not a heartbeat, which nobody misses
            if not self.untold:
                self.streams._tell(self, "gap")
            self.untold += messages + gaps
            self.missed += messages
            shared_plus(&self.streams.endpoint.counters[5], messages)
        return 0

    cdef int _tell_gap(self) except -1:
        """Behind what waits it learns what it missed."""
        cdef bytes text
        if self.untold:
            text = gap_frame(self.kind, self.untold, None if self.group is None else self.group.only)
            self.untold = 0
            if text:
                self.send(text)
        return 0


@cython.final
cdef class StreamGroup(Member):
    """The streams of one kind that are in the very same channels and prefixes."""

    cdef Streams streams
    cdef readonly int kind
    cdef frame_buffer buffer
    cdef sink **sinks
    cdef PyObject **members_  # Stream, held
    cdef uint32_t count_, capacity
    cdef bint dirty
    cdef uint64_t gaps        # messages missed of which the buffer tells
    cdef uint64_t lost        # messages for which there was no memory; told before the next
    cdef uint64_t delivery    # the last that it has seen, of Endpoint.delivery
    cdef bint spoke           # since the last heartbeat
    cdef public object key    # the owner's
    cdef public str only      # its channel, if it is in a single one

    def __cinit__(self, Streams streams, int kind):
        _check_kind(kind)
        self.streams, self.kind = streams, kind

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count_):
            Py_XDECREF(self.members_[i])
        free(self.sinks)
        free(self.members_)
        frame_free(&self.buffer)

    def __len__(self):
        return self.count_

    @property
    def members(self):
        """Its streams."""
        return [<object>self.members_[i] for i in range(self.count_)]

    def add(self, Stream stream):
        """From here on the stream receives what the group receives; it leaves the group it was in.

        Both are flushed first, so that nothing is lost or doubled on the way from a group in the same channels.
        """
        cdef sink **sinks
        cdef PyObject **members
        cdef uint32_t capacity
        if stream.ended or stream.ending or stream.group is self:
            return
        if stream.kind != self.kind:
            raise ValueError("a stream joins groups of its own kind")
        self.flush()
        if stream.group is not None:
            stream.group.flush()
            if stream.ended:
                return
        if self.count_ == self.capacity:
            capacity = max(4, 2 * self.capacity)
            self.streams._scratch(capacity)
            sinks = <sink **>realloc(self.sinks, capacity * sizeof(sink *))
            if sinks == NULL:
                raise MemoryError()
            self.sinks = sinks
            members = <PyObject **>realloc(self.members_, capacity * sizeof(PyObject *))
            if members == NULL:
                raise MemoryError()
            self.members_ = members
            self.capacity = capacity
        if stream.group is not None:
            stream.group._remove(stream)
        Py_INCREF(stream)
        self.sinks[self.count_] = &stream.c
        self.members_[self.count_] = <PyObject *>stream
        stream.place, stream.group = self.count_, self
        self.count_ += 1

    cdef int _remove(self, Stream stream) except -1:
        cdef uint32_t last = self.count_ - 1
        if stream.group is not self:
            return 0
        if last == 0:
            try:
                self.streams._tell(self, "empty")
            except MemoryError:
                pass  # it stays in its channels until someone joins and leaves just these again
        self.sinks[stream.place] = self.sinks[last]
        self.members_[stream.place] = self.members_[last]
        (<Stream>self.members_[stream.place]).place = stream.place
        self.count_ = last
        stream.group = None
        if last == 0:
            frame_free(&self.buffer)
            self.gaps = self.lost = 0
        Py_DECREF(stream)
        return 0

    cdef int _mark(self) except -1:
        """There is something to flush, or will be."""
        if not self.dirty:
            self.streams.dirty.append(self)
            self.dirty = True
        return 0

    cdef int _message(self, const frame_facts *facts) except -1:
        if self.count_ == 0:
            return 0
        self._mark()
        if self.lost:
            self._tell_lost()
        self.delivery = self.streams.endpoint.delivery
        if not frame_message(&self.buffer, <frame_kind>self.kind, facts):
            self.lost += 1
            return 0
        if self.buffer.size >= BATCH_BYTES:
            self.flush()
        return 0

    cdef int _tell_lost(self) except -1:
        cdef uint64_t lost = self.lost
        self.lost = 0
        return self._gap(lost, self.only)

    cdef int _gap(self, uint64_t missed, str channel) except -1:
        """This worker lost messages of a channel; told later when there is no memory for it now."""
        cdef uint32_t i
        cdef bint told
        if self.count_ == 0:
            return 0
        try:
            self._mark()
            if self.kind == FRAME_WS_TEXT or self.kind == FRAME_WS_BINARY:
                for i in range(self.count_):
                    self.streams._tell(<object>self.members_[i], "gap")
            told = _gap(&self.buffer, self.kind, missed, channel)
        except MemoryError:
            told = False
        if not told:
            self.lost += missed
            return 0
        self.gaps += missed
        for i in range(self.count_):
            (<Stream>self.members_[i]).missed += missed
        return 0

    def flush(self):
        """Write what was gathered to everyone in it."""
        cdef uint32_t i, noted
        cdef uint64_t messages, gaps
        cdef size_t size
        cdef sink_outcome *outcomes = self.streams.outcomes
        cdef bytes data
        cdef list late
        if self.lost:
            self._tell_lost()
        messages, gaps, size = self.buffer.messages, self.gaps, self.buffer.size
        if size == 0:
            return
        self.spoke = True
        self.gaps = 0
        if self.count_ >= UNLOCK_FROM:
            with nogil:
                noted = sink_fan(self.sinks, self.count_, self.buffer.data, size, outcomes)
        else:
            noted = sink_fan(self.sinks, self.count_, self.buffer.data, size, outcomes)
        try:
            if noted:
                data = PyBytes_FromStringAndSize(<const char *>self.buffer.data, size)
                late = [(<object>self.members_[outcomes[i].index], outcomes[i].sent) for i in range(noted)]
        except MemoryError:
            for i in range(noted):
                (<Stream>self.members_[outcomes[i].index])._tear()
            noted = 0
        finally:
            if size > 4096 and self.count_ < UNLOCK_FROM:
                frame_free(&self.buffer)
            else:
                frame_reset(&self.buffer)
        if noted:
            for stream, sent in late:
                try:
                    (<Stream>stream)._late(data, sent, messages, gaps)
                except MemoryError:
                    (<Stream>stream)._tear()

    def heartbeat(self, bytes data):
        """Write `data` to everyone if the group has been quiet since the last time."""
        if not self.spoke and self.count_:
            if frame_raw(&self.buffer, <frame_kind>self.kind, <const uint8_t *>PyBytes_AS_STRING(data),
                         PyBytes_GET_SIZE(data)):
                self.flush()
        self.spoke = False


@cython.final
cdef class Streams:
    """All of a worker's streams: who is in which group, who has gone, who can take more.

    An epoll instance of its own watches them: `fileno()` is readable when `ready()` has something to do.
    """

    cdef Endpoint endpoint
    cdef int epoll
    cdef dict by_fd
    cdef list dirty
    cdef sink_outcome *outcomes
    cdef uint32_t outcomes_capacity

    def __cinit__(self, Endpoint endpoint):
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, os.strerror(errno))
        self.endpoint, self.by_fd, self.dirty = endpoint, {}, []
        endpoint.streams = self

    def __dealloc__(self):
        if self.epoll >= 0:
            close(self.epoll)
        free(self.outcomes)

    def fileno(self):
        return self.epoll

    def __len__(self):
        return len(self.by_fd)

    @property
    def all(self):
        """Every stream that has not ended."""
        return list(self.by_fd.values())

    def open(self, int fd, int kind, Py_ssize_t limit, owner=None):
        """A stream on a non-blocking socket that stays open until it has ended.

        `limit`: bytes that may wait behind the batch that is being written.  Raises OSError when the socket cannot be watched.
        """
        cdef epoll_event event
        cdef Stream stream = Stream.__new__(Stream)
        _check_kind(kind)
        if limit < 1:
            raise ValueError("a stream needs room for at least 1 byte")
        if fd in self.by_fd:
            raise ValueError(f"descriptor {fd} is a stream already")
        stream.c.fd, stream.kind, stream.limit, stream.owner, stream.streams = fd, kind, limit, owner, self
        stream.number = fd
        event.events, event.data.u64 = EPOLLRDHUP, <uint64_t>fd
        self.by_fd[stream.number] = stream
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &event) != 0:
            del self.by_fd[stream.number]
            raise OSError(errno, os.strerror(errno))
        shared_plus(&self.endpoint.counters[19], 1)
        return stream

    cdef int _scratch(self, uint32_t capacity) except -1:
        cdef sink_outcome *grown
        if capacity > self.outcomes_capacity:
            grown = <sink_outcome *>realloc(self.outcomes, capacity * sizeof(sink_outcome))
            if grown == NULL:
                raise MemoryError()
            self.outcomes, self.outcomes_capacity = grown, capacity
        return 0

    cdef int _tell(self, object who, str what) except -1:
        """An event for the endpoint's owner: ("stream", Stream, "gone" | "done" | "gap" | "room" | "forgotten"), or a group's "empty"."""
        self.endpoint.schedule()
        self.endpoint.events.append(("stream", who, what))
        return 0

    cdef int _want(self, Stream stream, bint write) except -1:
        cdef epoll_event event
        if stream.wants_write == write or stream.ended:
            return 0
        event.events = EPOLLRDHUP | EPOLLOUT if write else EPOLLRDHUP
        event.data.u64 = <uint64_t>stream.c.fd
        if epoll_ctl(self.epoll, EPOLL_CTL_MOD, stream.c.fd, &event) == 0:
            stream.wants_write = write
        return 0

    cdef int _finish(self, Stream stream, str reason) except -1:
        cdef epoll_event event
        if stream.ended:
            return 0
        if reason is not None:
            self._tell(stream, reason)  # first what may find no memory: it can be tried again
        if stream.group is not None:
            stream.group._remove(stream)
        stream.ended = True
        stream.cut = stream.c.gone or stream.c.count != 0
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, stream.c.fd, &event)
        del self.by_fd[stream.number]
        sink_clear(&stream.c, _release_holder)
        shared_plus(&self.endpoint.counters[19], <uint64_t>-1)
        return 0

    def forget(self, Stream stream):
        """Give the stream up; its socket is the caller's again.  What waited is dropped."""
        try:
            self._finish(stream, "forgotten")
        except MemoryError:
            self._finish(stream, None)  # who calls knows

    def ungroup(self, Stream stream, bint tell_gap=True):
        """Out of every channel.  What it missed is told before whatever is written next, or never."""
        stream._leave(tell_gap)

    def ready(self):
        """Serve those that can take more or have gone.  Never waits."""
        cdef epoll_event events[READY_AT_ONCE]
        cdef int i, count = epoll_wait(self.epoll, events, READY_AT_ONCE, 0)
        cdef Stream stream
        for i in range(count):
            stream = self.by_fd.get(<int>events[i].data.u64)
            if stream is None:
                continue
            if events[i].events & EPOLLOUT and sink_flush(&stream.c, _release_holder) and not stream.c.gone:
                if stream.ending:
                    self._finish(stream, "done")
                    continue
                stream._tell_gap()
                if stream.want_room and stream.c.count == 0:
                    self._tell(stream, "room")
                    stream.want_room = False
                if stream.c.count == 0:
                    self._want(stream, False)
            if stream.c.gone or events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
                self._finish(stream, "gone")

    cdef int flush(self) except -1:
        cdef StreamGroup group
        while self.dirty:  # whoever is left when one fails is served the next time
            group = self.dirty.pop()
            group.dirty = False
            group.flush()
        return 0
