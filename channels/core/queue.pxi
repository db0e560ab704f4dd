# What a worker keeps for its subscribers: messages, and a bounded queue each.

cimport cython


@cython.final
@cython.no_gc
@cython.freelist(512)
cdef class Message:
    """One message of a channel."""

    cdef readonly str channel
    cdef readonly bytes data
    cdef bytes event_name
    cdef uint64_t number, epoch, time_ns
    cdef readonly uint64_t missed

    def __init__(self):
        raise TypeError("messages come from subscriptions")

    @property
    def event(self):
        """The name that publish(..., event=) gave it, or None."""
        return None if self.event_name is None else self.event_name.decode("utf-8", "replace")

    @property
    def id(self):
        """"<epoch>-<number>": numbers count within a channel's epoch without a hole."""
        return f"{self.epoch:x}-{self.number}"

    @property
    def time(self):
        """Unix seconds when it was routed."""
        return self.time_ns / 1e9

    def __repr__(self):
        shown = self.data if len(self.data) <= 40 else self.data[:37] + b"..."
        missed = f", missed={self.missed}" if self.missed else ""
        return f"Message(channel={self.channel!r}, data={shown!r}, id={self.id!r}{missed})"


cdef extern from *:
    """
    #include <structmember.h>
    /* A slot of the type instead of a getter, found by the value that stands in it: the interpreter reads it without a
     * call (its LOAD_ATTR_SLOT). */
    static int plain_slot(PyObject *instance, PyMemberDef *slot, const char *name, PyObject *value) {
        PyTypeObject *type = Py_TYPE(instance);
        Py_ssize_t offset = sizeof(PyObject);
        while (offset < type->tp_basicsize && *(PyObject **)((char *)instance + offset) != value)
            offset += sizeof(PyObject *);
        if (offset >= type->tp_basicsize)
            return 0; /* the getter stays */
        *slot = (PyMemberDef){name, T_OBJECT_EX, offset, READONLY, NULL};
        PyObject *made = PyDescr_NewMember(type, slot);
        int status = made == NULL ? -1 : PyDict_SetItemString(type->tp_dict, name, made);
        Py_XDECREF(made);
        PyType_Modified(type);
        return status;
    }
    """
    ctypedef struct PyMemberDef:
        pass
    int plain_slot(object instance, PyMemberDef *slot, const char *name, object value) except -1

cdef PyMemberDef _data_slot, _channel_slot
cdef Message _shape = Message.__new__(Message)
_shape.channel, _shape.data = "the name", b"the body"
plain_slot(_shape, &_data_slot, "data", _shape.data)
plain_slot(_shape, &_channel_slot, "channel", _shape.channel)
_shape = None


cdef extern from *:
    """
    /* A reference that changes hands. */
    static inline PyObject *given(PyObject *held) { return held; }
    """
    object given(PyObject *held)

cdef struct queue_entry:
    PyObject *message
    PyObject *binding

DROP_OLDEST = 0
DROP_NEWEST = 1
CLOSE = 2

cdef enum:
    OWED_MAX = 10000  # names


cdef class Queue(Member):
    """Messages that wait for one subscriber, bounded in number and bytes."""

    cdef Endpoint endpoint
    cdef queue_entry *entries
    cdef Py_ssize_t first, count, capacity  # capacity: a power of two
    cdef Py_ssize_t maxlen, max_bytes, bytes_waiting
    cdef int overflow
    cdef int event_fd
    cdef bint listed  # in endpoint.woken
    cdef readonly bint closed
    cdef readonly bint overflowed
    cdef readonly uint64_t dropped
    cdef dict owed  # name of a channel that was forgotten -> (prefixes that kept it, lost and not told), or None
    cdef public object waiter
    cdef object __weakref__

    def __cinit__(self, Endpoint endpoint, Py_ssize_t maxlen, Py_ssize_t max_bytes, int overflow, *args, **kwargs):
        if maxlen < 1 or max_bytes < 1:
            raise ValueError("maxlen and max_bytes must be at least 1")
        if overflow not in (DROP_OLDEST, DROP_NEWEST, CLOSE):
            raise ValueError("no such overflow policy")
        self.endpoint = endpoint
        self.maxlen, self.max_bytes, self.overflow = maxlen, max_bytes, overflow
        self.event_fd = -1
        self.capacity = 16
        self.entries = <queue_entry *>malloc(self.capacity * sizeof(queue_entry))
        if self.entries == NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef queue_entry *entry
        while self.count:
            entry = &self.entries[self.first & (self.capacity - 1)]
            Py_XDECREF(entry.message)
            Py_XDECREF(entry.binding)
            self.first += 1
            self.count -= 1
        free(self.entries)
        if self.event_fd >= 0:  # asked for after release_fd
            close(self.event_fd)

    @cython.final
    cdef int _grow(self) except -1:
        cdef Py_ssize_t i
        cdef queue_entry *grown = <queue_entry *>malloc(2 * self.capacity * sizeof(queue_entry))
        if grown == NULL:
            raise MemoryError()
        for i in range(self.count):
            grown[i] = self.entries[(self.first + i) & (self.capacity - 1)]
        free(self.entries)
        self.entries = grown
        self.first = 0
        self.capacity *= 2
        return 0

    @cython.final
    cdef int _push(self, Message message, Binding binding) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message.data)
        if self.closed:
            return 0
        while self.count >= self.maxlen or (self.count and self.bytes_waiting + size > self.max_bytes):
            self.dropped += 1
            shared_plus(&self.endpoint.counters[5], 1)
            if self.overflow == DROP_NEWEST:
                return 0
            if self.overflow == CLOSE:
                self.overflowed = True
                self._close()
                return 0
            self._discard_first()
        if self.count == self.capacity:
            self._grow()
        if self.waiter is not None:
            self._list()  # before it is in, and with each: the next one tries again when there was no memory for it
        cdef queue_entry *entry = &self.entries[(self.first + self.count) & (self.capacity - 1)]
        Py_INCREF(message)
        Py_INCREF(binding)
        entry.message = <PyObject *>message
        entry.binding = <PyObject *>binding
        self.count += 1
        self.bytes_waiting += size
        if self.count == 1 and self.event_fd >= 0:
            notify_write(self.event_fd)
        return 0

    @cython.final
    cdef int _list(self) except -1:
        if not self.listed:
            self.endpoint.woken.append(self)
            self.listed = True
        return 0

    @cython.final
    cdef int _discard_first(self) except -1:
        cdef queue_entry *entry = &self.entries[self.first & (self.capacity - 1)]
        if (<Binding>entry.binding).former:
            self._pass_on(<Binding>entry.binding, (<Message>entry.message).number)
        self.bytes_waiting -= PyBytes_GET_SIZE((<Message>entry.message).data)
        self.first += 1
        self.count -= 1
        Py_DECREF(<object>entry.message)
        Py_DECREF(<object>entry.binding)
        return 0

    @cython.final
    cdef int _pass_on(self, Binding former, uint64_t number) except -1:
        """The first message, this one, is dropped: if none of the same binding waits behind it, another tells of it."""
        cdef Py_ssize_t i
        cdef Binding binding
        for i in range(1, self.count):
            if self.entries[(self.first + i) & (self.capacity - 1)].binding == <PyObject *>former:
                return 0
        for binding in self.bindings.values():
            if binding.channel.name == former.channel.name:
                binding.last -= former._missed(number) + 1
                return 0
        return self._owe(former, former._missed(number) + 1)

    @cython.final
    cdef Message _take(self):
        self.endpoint.ours()
        cdef queue_entry *entry = &self.entries[self.first & (self.capacity - 1)]
        cdef Message message = <Message>given(entry.message)
        cdef PyObject *binding = entry.binding
        self.first += 1
        self.count -= 1
        self.bytes_waiting -= PyBytes_GET_SIZE(message.data)
        if self.count == 0 and self.event_fd >= 0 and not self.closed:
            notify_clear(self.event_fd)
        if message.number != (<Binding>binding).last + 1:
            return self._take_after_gap(message, <Binding>given(binding))
        (<Binding>binding).last = message.number
        Py_DECREF(<object>binding)
        return message

    @cython.final
    cdef Message _take_after_gap(self, Message message, Binding binding):
        """The same message, or a copy of it that says how many of its channel were missed before it."""
        cdef Message copy
        cdef uint64_t missed = binding._missed(message.number)
        binding.last = message.number
        if missed == 0:
            return message
        copy = Message.__new__(Message)
        copy.channel, copy.data, copy.event_name = message.channel, message.data, message.event_name
        copy.number, copy.epoch, copy.time_ns, copy.missed = message.number, message.epoch, message.time_ns, missed
        return copy

    def take(self):
        """The next message, or None.  Never waits; looks into the ring when the queue is empty."""
        if self.count == 0:
            if self.closed:
                return None
            refill(self.endpoint, self)
            if self.count == 0:
                return None
        return self._take()

    def take_data(self):
        """The body of the next message, or None."""
        cdef Message message = self.take()
        return None if message is None else message.data

    def take_all(self):
        """Every message that waits."""
        taken = []
        if self.count == 0 and not self.closed:
            refill(self.endpoint, self)
        while self.count:
            taken.append(self._take())
        return taken

    def __iter__(self):
        return Messages(self)

    def __next__(self):
        while self.count == 0:
            if self.closed:
                raise StopIteration
            if not refill(self.endpoint, self) and not self.wait(None):
                raise StopIteration
        return self._take()

    def wait(self, timeout):
        """True when a message waits, False when closed or out of time.  worker/subscription.py knows how to wait."""
        raise NotImplementedError

    def __len__(self):
        return self.count

    @property
    def pending(self):
        """Messages that wait here."""
        return self.count

    @property
    def pending_bytes(self):
        return self.bytes_waiting

    def fileno(self):
        """An eventfd that is readable while messages wait, or for ever once closed.  Made on first use."""
        if self.event_fd < 0:
            self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if hasattr(os, "eventfd") else _eventfd()
            if self.count or self.closed:
                notify_write(self.event_fd)
        return self.event_fd

    @property
    def event_fileno(self):
        """That of fileno(), or -1 when nobody has asked for it."""
        return self.event_fd

    def release_fd(self):
        """The eventfd's number, given up: the caller closes it."""
        fd, self.event_fd = self.event_fd, -1
        return fd

    @cython.final
    cdef int _close(self) except -1:
        if self.closed:
            return 0
        self.endpoint.ours()
        self.closed = True
        if self.event_fd >= 0:
            notify_write(self.event_fd)
        self._list()
        return 0

    def shut(self):
        """Take nothing new; what waits may still be taken."""
        self._close()

    @cython.final
    cdef uint64_t _untold(self, Binding binding) except? 0xffffffff:
        """Lost of its channel behind everything that waits here of it."""
        cdef Py_ssize_t i = self.count
        cdef uint64_t lost, last = binding.last
        while i:
            i -= 1
            if self.entries[(self.first + i) & (self.capacity - 1)].binding == <PyObject *>binding:
                last = (<Message>self.entries[(self.first + i) & (self.capacity - 1)].message).number
                break
        lost = binding.channel.last - last
        if binding.skipped is not None:
            lost -= sum(1 for skipped in binding.skipped if skipped > last or last == binding.last)
        return lost

    @cython.final
    cdef int _owe(self, Binding binding, uint64_t lost) except -1:
        """Its channel is or will be forgotten: so much more was lost of it, to be told when it comes again."""
        if lost == 0:
            return 0
        if self.owed is None:
            self.owed = {}
        prefixes, before = self.owed.get(binding.channel.name, ((), 0))
        if before == 0 and len(self.owed) >= OWED_MAX:
            del self.owed[next(iter(self.owed))]
        self.owed[binding.channel.name] = (binding.prefixes.union(prefixes), before + lost)
        return 0

    @cython.final
    cdef uint64_t _owed(self, LocalChannel channel) except? 0xffffffff:
        return 0 if self.owed is None else self.owed.pop(channel.name, (None, 0))[1]

    @cython.final
    cdef int _forgive(self, str prefix) except -1:
        """Nothing is told of channels that only this prefix kept."""
        if self.owed is not None:
            for name, (prefixes, _) in list(self.owed.items()):
                prefixes.discard(prefix)
                if not prefixes:
                    del self.owed[name]
        return 0

    @cython.final
    cdef int _purge(self, Binding binding) except -1:
        return self._drop(binding.channel, None)

    @cython.final
    cdef bint _is_dropped(self, Binding binding, LocalChannel channel, str prefix) except -1:
        if prefix is None:
            return binding.channel is channel
        if binding.channel in self.bindings or not binding.channel.name.startswith(prefix):
            return False
        binding.prefixes.discard(prefix)
        return not binding.prefixes

    @cython.final
    cdef int _drop(self, LocalChannel channel, str prefix) except -1:
        """Of what waits: that of `channel`, or, when `prefix` is not None, of forgotten ones that only it kept."""
        cdef Py_ssize_t i, kept = 0
        cdef queue_entry entry
        cdef list gone = [None] * self.count  # until all stand in their places; nothing below needs memory
        for i in range(self.count):
            entry = self.entries[(self.first + i) & (self.capacity - 1)]
            if self._is_dropped(<Binding>entry.binding, channel, prefix):
                self.bytes_waiting -= PyBytes_GET_SIZE((<Message>entry.message).data)
                gone[i] = <object>entry.message
                Py_DECREF(<object>entry.message)
                Py_DECREF(<object>entry.binding)
            else:
                self.entries[(self.first + kept) & (self.capacity - 1)] = entry
                kept += 1
        self.count = kept
        if kept == 0 and self.event_fd >= 0 and not self.closed:
            notify_clear(self.event_fd)
        return 0


@cython.final
@cython.no_gc_clear
cdef class Messages:
    """A queue's messages as they come: the iterator of a subscription."""

    cdef Queue queue

    def __cinit__(self, Queue queue):
        self.queue = queue

    def __iter__(self):
        return self

    def __next__(self):
        cdef Queue queue = self.queue
        if queue.count == 0:
            return queue.__next__()
        return queue._take()


cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    int EFD_NONBLOCK, EFD_CLOEXEC


def _eventfd():
    cdef int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if fd < 0:
        raise OSError(errno, os.strerror(errno))
    return fd


def make_eventfd():
    """A non-blocking eventfd that is closed on exec.  Raises OSError."""
    return _eventfd()


def eventfd_clear(int fd):
    """Make it unreadable."""
    notify_clear(fd)
