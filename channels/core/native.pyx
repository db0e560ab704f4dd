# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, nonecheck=False
# cython: cdivision=True, embedsignature=False, binding=True
"""The native core seen from Python: objects, the GIL, status -> error.

The only Cython here.  Its parts, one object each: segment.pxi, router.pxi, bindings.pxi, queue.pxi, endpoint.pxi,
streams.pxi, alerts.pxi, parcel.pxi; what an endpoint does: sending.pxi, draining.pxi, bodies.pxi, framing.pxi, post.pxi;
its types: native.pyi.
No policy, no logging, no gevent: whoever waits does so in worker/ or master/.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memcmp, memset

import os

from channels.errors import (
    AlertLoop, BadAlertName, BadChannelName, ForkedProcess, MessageTooBig, NotAttached, SegmentError, WorkerGone,
)

include "declarations.pxi"
include "segment.pxi"
include "router.pxi"
include "bindings.pxi"
include "queue.pxi"
include "endpoint.pxi"
include "sending.pxi"
include "bodies.pxi"
include "draining.pxi"
include "framing.pxi"
include "streams.pxi"
include "alerts.pxi"
include "parcel.pxi"
include "post.pxi"
