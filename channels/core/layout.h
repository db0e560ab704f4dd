/*
 * The segment: every struct in it, who writes each field, who reads it, in which memory order.
 *
 * One writer per word.  Everything that one process writes lies in a page-aligned region of its own, so that every
 * other process can map it read-only.  "release" and "acquire" below are C11 orders; a word without an order is plain
 * and protected by one that has.  Layout only: no function here touches memory.
 */
#ifndef CHANNELS_LAYOUT_H
#define CHANNELS_LAYOUT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define LAYOUT_MAGIC 0x31736c656e6e6843ull /* "Chnnels1", little endian */
#define LAYOUT_MAJOR 1u
#define LAYOUT_MINOR 0u

#define SLOTS_MAX 256u
#define SLOT_WORDS_MAX (SLOTS_MAX / 64u)
#define ROUTER_SLOT 0u
#define NAME_MAX_BYTES 255u
#define ALERT_NAME_MAX_BYTES 254u
#define LONG_NAME_STRIDE 256u
#define OP_RECORDS 64u /* records that one router operation may cover */

#define CONTROL_LINE 128u /* two cache lines: the adjacent-line prefetcher couples them */
#define RECORD_ALIGN 16u
#if defined(__aarch64__) || defined(__powerpc64__)
#define REGION_ALIGN 65536u /* the largest page size of the architecture */
#else
#define REGION_ALIGN 4096u
#endif

typedef _Atomic uint64_t shared64;
typedef _Atomic uint32_t shared32;

/* Who: slot in the upper 16 bits, generation in the lower 48.  Never reused (docs/hazards.md, H5, H50). */
typedef uint64_t worker_id;
#define GENERATION_BITS 48
#define GENERATION_MASK ((1ull << GENERATION_BITS) - 1)
#define WORKER_ID(slot, generation) ((uint64_t)(slot) << GENERATION_BITS | ((generation)&GENERATION_MASK))
#define WORKER_SLOT(id) ((uint32_t)((id) >> GENERATION_BITS))
#define WORKER_GENERATION(id) ((id)&GENERATION_MASK)

/* ---- records ---- */

enum record_type {
    RECORD_PAD = 1, /* to the end of the ring; only length and type are valid */
    RECORD_MESSAGE, /* up and down: one message of the channel in `row` */
    RECORD_JOIN,    /* up: payload is the name; answered by JOINED with the token */
    RECORD_LEAVE,   /* up: payload is the name; not answered */
    RECORD_REPORT,  /* up: `destination` broke the rules on the direct ring to `source` */
    RECORD_JOINED,  /* down: struct joined_payload */
    RECORD_GAP,     /* down: what had a number up to `sequence` and has not come will not come */
    RECORD_HERE,    /* down: the worker `source` has attached, its direct ring may have something */
    RECORD_GONE,    /* down: the worker `source` is dead, nothing of it follows */
    RECORD_RESYNC,  /* down: there is a new router; ask again what was not answered */
    RECORD_ALERT,   /* direct: the name stands before the body */
    RECORD_REPLY,   /* direct: what a call's handler returned */
    RECORD_ERROR,   /* direct: a call's handler failed; the payload says how */
    RECORD_BODY,    /* direct: fragment of a large channel message, ordered by its RECORD_MESSAGE */
    RECORD_ABORT,   /* direct: `message_id` of `source` will not be completed; `sequence`: of an answer, its call's */
    RECORD_TYPES
};

enum record_flag {
    FLAG_FIRST = 1,  /* of the fragments of one message */
    FLAG_LAST = 2,   /* both: the whole message is in this record */
    FLAG_CALL = 4,   /* an alert that wants a reply with the same correlation number */
    FLAG_PREFIX = 8, /* JOIN, LEAVE: the name is a prefix */
    FLAG_OPEN = 16,  /* JOIN: make the row for those who joined a prefix of the name, join nobody */
    FLAG_LARGE = 32, /* MESSAGE: payload is struct large_payload, the body came in RECORD_BODY */
    FLAG_NONE = 64,  /* REPLY: the handler returned None */
    FLAGS_KNOWN = 127
};

struct record {
    uint32_t length; /* bytes, this header included, padding excluded */
    uint8_t type;
    uint8_t flags;
    uint8_t name_length; /* bytes in front of the body: an alert's name, a message's event */
    uint8_t hops;        /* alerts: how many handlers this one is a consequence of */
    worker_id source;
    worker_id destination; /* another generation's record is dropped by its receiver and counted */
    uint64_t sequence;     /* down: the channel's number; alerts: correlation; JOIN: token; a prefix's JOINED: epoch */
    union {
        struct {
            uint32_t row;
            uint32_t row_generation;
            uint64_t time_ns; /* down: CLOCK_REALTIME of the router's turn; JOINED: the channel's epoch */
        };
        struct {
            uint32_t message_id;
            uint32_t fragment; /* counts from 0 without a hole */
            uint64_t total;    /* bytes of the whole body */
        };
    };
};

struct joined_payload {
    uint64_t token;
    uint64_t status; /* enum join_status */
};

enum join_status { JOIN_OK = 0, JOIN_TABLE_FULL, JOIN_BAD_NAME, JOIN_NOBODY /* OPEN: no prefix matches any more */ };

struct large_payload {
    uint32_t message_id;
    uint32_t reserved;
    uint64_t began_ns; /* CLOCK_MONOTONIC before the sender looked who listens: no later life of a slot is meant */
    uint64_t receivers[SLOT_WORDS_MAX]; /* slots that the body was sent to */
};

/* ---- cursors: positions count bytes for ever; a ring's byte is at position & (capacity - 1) ---- */

struct producer_line {
    _Alignas(CONTROL_LINE) shared64 tail; /* producer (release); consumer (acquire): all before it is readable */
    shared64 want;                        /* producer (relaxed, then fence); odd epoch: it sleeps until there is room */
    shared64 start;            /* producer, once per generation before its first tail: where that generation begins */
    shared64 start_generation; /* producer (release) after start; consumer (acquire) */
};

struct consumer_line {
    _Alignas(CONTROL_LINE) shared64 head; /* consumer (release); producer (acquire): all before it may be overwritten */
};

/* ---- region of the supervisor ---- */

struct slot_entry {
    _Alignas(CONTROL_LINE) shared64
        generation; /* supervisor (release); all (acquire): odd while somebody holds the slot */
    shared64 pid;   /* supervisor; all: whose pid, 0 when vacant */
};

struct supervisor_region {
    _Alignas(
        CONTROL_LINE) shared64 owner; /* two masters by compare-and-swap: who routes (docs/protocol/handover.pml) */
    struct slot_entry slot[SLOTS_MAX];
};

/* ---- region of the router ---- */

struct op_log {                    /* prepared while the other one is current; see router.c */
    uint64_t slot;                 /* whose up-ring */
    uint64_t begin, end;           /* positions in it that the operation consumes */
    uint64_t count;                /* records with a sequence number below */
    uint64_t sequence[OP_RECORDS]; /* 0: the record gets none */
    uint32_t row[OP_RECORDS];      /* whose number that is */
};

struct fanout_mark {      /* per destination: docs/protocol */
    shared64 tail_before; /* router; successor: tail before operation `operation` */
    shared64 operation;   /* router (release) after tail_before */
    shared64 spilled;     /* router: 1 while something for this slot is only in its private memory */
    shared64 quarantined; /* router; successor: the generation that broke the rules * 8 + enum quarantine_reason */
};

struct router_counters {
    shared64 turns, records, deliveries, bytes;
    shared64 spilled, dropped, dropped_dead, stale, table_full, quarantined, kicks, wakeups, rows_used;
};

struct router_control {
    _Alignas(CONTROL_LINE) shared64 armed;        /* router (relaxed, then fence); workers: odd while it sleeps */
    _Alignas(CONTROL_LINE) shared64 current;      /* router (release): number of the last operation begun */
    struct op_log op[2];                          /* op[current & 1] */
    _Alignas(CONTROL_LINE) shared64 heartbeat_ns; /* router; supervisor: CLOCK_MONOTONIC */
    shared64 last_epoch;                          /* router; successor: the newest channel epoch given */
    _Alignas(CONTROL_LINE) shared64
        prefix_lengths[4];  /* router; workers: bit n is set when a prefix of n bytes is joined */
    shared64 index_version; /* router (release); workers (acquire): odd while entries of the index move */
    _Alignas(CONTROL_LINE) struct router_counters count; /* router; whoever looks */
};

enum row_flag { ROW_USED = 1, ROW_PREFIX = 2, ROW_LONG_NAME = 4 };

/* A channel.  `version` is even while the row is stable and grows by two each time it changes hands; the bitmaps change
 * without it, a word at a time. */
struct row {
    shared64 version;  /* router (release); workers (acquire) before and after: a bounded seqlock */
    shared64 hash;     /* router; workers, all below too, relaxed */
    shared64 sequence; /* last number given */
    shared64 epoch;    /* when this row's numbering began, microseconds since 1970, strictly growing */
    shared32 name_length;
    shared32 flags;
    shared32 long_name; /* index of the name's place among the long names */
    shared32 reserved;
    shared64 words[]; /* bitmap[slot_words], exact[slot_words], then the name's bytes in the rest of the stride */
};

/* ---- region of a worker ---- */

struct worker_counters {
    shared64 sent, sent_bytes, received, received_bytes, missed, dropped;
    shared64 alerts_sent, alerts_received, alerts_unhandled, alerts_dropped;
    shared64 stale, wakeups, late_wakeups, broken_rings;
    shared64 connections, connections_total, requests_running, requests_total, request_errors, streams;
    shared64 requests_timed_out;
    shared64 keys_number, keys_since_ns, keys_own, keys_guest;
};

struct worker_control {
    _Alignas(CONTROL_LINE) shared64 armed; /* worker (relaxed, then fence); all who notify it: odd while it sleeps */
    _Alignas(
        CONTROL_LINE) shared64 attached; /* worker (release); router, peers: the generation that has set its cursors */
    shared64 ready;                      /* worker (release); peers: the generation that takes alerts */
    shared64 heartbeat_ns;               /* worker; supervisor, router: CLOCK_MONOTONIC */
    _Alignas(CONTROL_LINE) struct worker_counters count;
    struct producer_line up;   /* worker -> router */
    struct consumer_line down; /* router -> worker */
};

/* ---- header, written once before the first fork ---- */

struct geometry {
    uint32_t slots, slot_words;
    uint32_t up_bytes, down_bytes, direct_bytes; /* ring capacities, powers of two */
    uint32_t rows, index_entries, long_names, row_stride;
    uint32_t reserved;
    uint64_t supervisor_offset, router_offset, router_size;
    uint64_t workers_offset, worker_size; /* region of slot s: workers_offset + (s - 1) * worker_size */
    uint64_t marks_offset, up_heads_offset, down_tails_offset; /* the rest from the segment's start: the router's */
    uint64_t index_offset, rows_offset, long_names_offset, down_data_offset;
    uint64_t direct_tails_offset, direct_heads_offset; /* these from the start of a worker's region */
    uint64_t up_data_offset, direct_data_offset;
    uint64_t size;
};

struct segment_header {
    uint64_t magic;
    uint32_t major, minor;
    uint64_t layout_id;
    uint64_t epoch_us; /* when the segment was made, microseconds since 1970 */
    uint64_t hash_key[2];
    struct geometry geometry;
};

/* ---- asserted, and summed up in one number that whoever maps the segment compares ---- */

#define LAYOUT_MIX(hash, value) (((hash) ^ (uint64_t)(value)) * 0x100000001b3ull)
#define LAYOUT_ID_A LAYOUT_MIX(LAYOUT_MIX(0xcbf29ce484222325ull, LAYOUT_MAJOR), sizeof(struct record))
#define LAYOUT_ID_B                                                                                                    \
    LAYOUT_MIX(LAYOUT_MIX(LAYOUT_ID_A, offsetof(struct record, source)), offsetof(struct record, sequence))
#define LAYOUT_ID_C LAYOUT_MIX(LAYOUT_MIX(LAYOUT_ID_B, offsetof(struct record, row)), offsetof(struct record, time_ns))
#define LAYOUT_ID_D LAYOUT_MIX(LAYOUT_MIX(LAYOUT_ID_C, sizeof(struct producer_line)), sizeof(struct consumer_line))
#define LAYOUT_ID_E                                                                                                    \
    LAYOUT_MIX(LAYOUT_MIX(LAYOUT_ID_D, sizeof(struct slot_entry)), offsetof(struct supervisor_region, slot))
#define LAYOUT_ID_F LAYOUT_MIX(LAYOUT_MIX(LAYOUT_ID_E, sizeof(struct op_log)), offsetof(struct op_log, sequence))
#define LAYOUT_ID_G                                                                                                    \
    LAYOUT_MIX(LAYOUT_MIX(LAYOUT_ID_F, sizeof(struct fanout_mark)), offsetof(struct fanout_mark, quarantined))
#define LAYOUT_ID_H                                                                                                    \
    LAYOUT_MIX(LAYOUT_MIX(LAYOUT_ID_G, sizeof(struct router_control)), offsetof(struct router_control, op))
#define LAYOUT_ID_I                                                                                                    \
    LAYOUT_MIX(LAYOUT_MIX(LAYOUT_ID_H, offsetof(struct router_control, index_version)),                                \
               offsetof(struct router_control, count))
#define LAYOUT_ID_J LAYOUT_MIX(LAYOUT_MIX(LAYOUT_ID_I, offsetof(struct row, words)), sizeof(struct worker_control))
#define LAYOUT_ID_K                                                                                                    \
    LAYOUT_MIX(LAYOUT_MIX(LAYOUT_ID_J, offsetof(struct worker_control, up)), sizeof(struct segment_header))
#define LAYOUT_ID LAYOUT_MIX(LAYOUT_ID_K, RECORD_TYPES * 65536u + SLOTS_MAX + REGION_ALIGN)

_Static_assert(sizeof(struct record) == 48, "records are copied as three 16-byte units");
_Static_assert(offsetof(struct record, source) == 8 && offsetof(struct record, destination) == 16, "record");
_Static_assert(offsetof(struct record, sequence) == 24 && offsetof(struct record, row) == 32, "record");
_Static_assert(offsetof(struct record, time_ns) == 40 && offsetof(struct record, total) == 40, "record");
_Static_assert(sizeof(struct producer_line) == CONTROL_LINE, "one writer's words alone on their lines");
_Static_assert(sizeof(struct consumer_line) == CONTROL_LINE, "one writer's words alone on their lines");
_Static_assert(offsetof(struct row, words) == 48, "a row with one bitmap word keeps 64 bytes for its name in 128");
_Static_assert(sizeof(struct fanout_mark) == 32, "marks of four destinations share a control line");
_Static_assert(sizeof(struct segment_header) <= REGION_ALIGN, "the header fits its page");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit words must be atomic without a lock");

#endif
