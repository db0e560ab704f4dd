/*
 * The router: one bounded turn drains what workers sent, fans it out by the bitmaps, and notifies.
 *
 * Runs without the GIL and never waits.  Whatever it does is one of three: a routed batch under the operation log, a
 * change of the table that can be repeated, or the moving of what had been spilled.  So it can die between any two
 * stores and a successor goes on (docs/protocol/router_crash.pml).  What only a policy can answer it hands out as an
 * event.
 */
#ifndef CHANNELS_ROUTER_H
#define CHANNELS_ROUTER_H

#include "notify.h"
#include "ring.h"
#include "spill.h"
#include "table.h"

enum router_event_type {
    EVENT_NONE = 0,
    EVENT_ATTACHED,   /* slot, generation: a worker has set its cursors */
    EVENT_QUARANTINE, /* slot, generation: it broke the rules; `detail` is enum quarantine_reason */
    EVENT_PREFIX      /* slot: a prefix JOIN or LEAVE stands first in its ring; call router_prefix */
};

enum quarantine_reason {
    BROKEN_RING = 1, /* cursors or a header that cannot be */
    BROKEN_SOURCE,   /* a record in somebody else's name */
    BROKEN_RECORD,   /* a type, flag or field that does not go up */
    BROKEN_HEAD,     /* its cursor of the ring to it cannot be */
    BROKEN_DIRECT    /* another worker found its direct ring broken, and so it is */
};

struct router_event {
    uint32_t type, slot;
    uint64_t generation;
    uint64_t detail;
};

#define ROUTER_EVENTS 512u

struct router_limits {
    uint64_t turn_records, turn_bytes; /* per ring and turn */
    uint64_t spill_soft_bytes, spill_hard_bytes, spill_soft_ns;
    uint64_t row_idle_ns; /* before a row that only prefixes keep may be given to another channel */
};

struct lane { /* the router's private side of one slot */
    struct ring_in up;
    struct ring_out down;
    struct doorbell bell; /* it sleeps, and something came */
    struct doorbell room; /* it waits for room in `up` */
    worker_id id;         /* of the attached generation */
    uint64_t generation;  /* attached, else 0 */
    uint64_t buried;      /* the last generation cleaned up */
    uint64_t want;        /* our own epoch towards its reader */
    struct spill spill;
    uint64_t *member; /* bit per row: where this slot stands in a bitmap */
    bool attached, quarantined, touched, pending_prefix, resync_due;
    bool behind; /* something for it is spilled, or it must be told of a loss */
    bool dying;  /* being buried: what it asked for itself is moot */
};

/* What a slot's generation has done; not in its lane, whose size decides what finding one costs for each message. */
struct conduct {
    uint32_t made;       /* rows in use that it asked for */
    uint32_t accused;    /* the slot that it was believed to have been harmed by; 0: none */
    uint64_t accused_ns; /* when */
};

struct row_shadow {
    uint64_t sequence; /* ahead of the row's while a batch is staged */
    uint64_t used_ns;
    uint32_t waiting;          /* messages of it that wait in a spill */
    uint16_t maker;            /* the slot that asked for the row; 0: nobody who lives */
    uint16_t maker_generation; /* its lower bits */
};

struct router {
    const struct segment *segment;
    struct router_control *control;
    const int *eventfds; /* by slot */
    struct table table;
    struct router_limits limits;
    struct lane lane[SLOTS_MAX];
    struct conduct conduct[SLOTS_MAX];
    uint32_t live[SLOTS_MAX]; /* attached slots, in order of attaching */
    uint32_t live_count;
    uint32_t next; /* where the next turn begins, round robin */
    uint32_t since_scan;
    struct row_shadow *shadow;
    uint64_t now_ns, now_real_ns; /* of this turn: CLOCK_MONOTONIC, CLOCK_REALTIME */
    uint32_t staged;              /* records in the operation being prepared */
    uint64_t staged_bytes;
    uint64_t deliveries; /* in this turn */
    uint32_t touched[SLOTS_MAX];
    uint32_t touched_count;
    uint32_t spilling; /* lanes with a spill */
    uint32_t evict_hand;
    struct router_event events[ROUTER_EVENTS];
    uint32_t event_head, event_count;
    uint32_t *journal; /* rows made or freed since the last look, when somebody wants to know */
    uint32_t journal_count, journal_capacity;
    bool journal_on, journal_lost;
    bool sweep_due; /* a predecessor may have died between emptying a row and freeing it */
};

/* Maps nothing: `segment` has been entered in the router's role.  Finishes what a predecessor had begun, tells every
 * attached worker to ask again.  `imports`, by slot, or NULL: what the predecessor had spilled for it will be brought
 * by fanout_import, so it is not lost.  False: no memory. */
bool router_open(struct router *self, const struct segment *segment, const int *eventfds,
                 const struct router_limits *limits, const bool *imports, uint64_t now_ns, uint64_t now_real_ns);
void router_close(struct router *self);

/* Returns the number of records taken; `*more` tells whether anything is left that could go on at once. */
uint64_t router_turn(struct router *self, uint64_t now_ns, uint64_t now_real_ns, bool *more);
/* Look for up to `spin_ns`, yielding the processor between looks.  True: something came. */
bool router_look(struct router *self, uint64_t spin_ns);
/* Arms, looks once more.  True: nothing there, the caller may sleep; after it, router_awake. */
bool router_sleep(struct router *self);
void router_awake(struct router *self);

bool router_next_event(struct router *self, struct router_event *event);
/* Carries out the prefix JOIN or LEAVE that stands first in the slot's ring; `rows`: the channels with that prefix. */
bool router_prefix_pending(struct router *self, uint32_t slot, uint8_t *name, uint32_t *length, bool *leave);
void router_prefix(struct router *self, uint32_t slot, const uint32_t *rows, uint32_t count);

/* A worker is dead (a zombie at least), its generation already even: clean up in the order of docs/protocol.
 * False: no memory for that now, ask again. */
bool router_bury(struct router *self, uint32_t slot, uint64_t generation);

/* Monotonic and real time for those who have no clock at hand. */
uint64_t router_clock_ns(int clock);

/* The ring from a worker, where the router has read to. */
struct ring_in router_up(const struct segment *segment, uint32_t slot);

#endif
