/* The turn, the arrival and burial of workers.  See router.h. */
#define _GNU_SOURCE
#include "router.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fanout.h"
#include "membership.h"

#define STAGED_BYTES_MAX (32u * 1024u) /* a batch is visible to its readers at the latest after this much */
#define SCAN_EVERY 64u                 /* turns between two looks for workers that attached without ringing */
#define EVENTS_SPARE (SLOTS_MAX + 8u)

uint64_t router_clock_ns(int clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* ---- events ---- */

void router_tell(struct router *self, uint32_t type, uint32_t slot, uint64_t generation, uint64_t detail) {
    if (self->event_count == ROUTER_EVENTS)
        return; /* the turn stops long before */
    uint32_t at = (self->event_head + self->event_count++) % ROUTER_EVENTS;
    self->events[at] = (struct router_event){type, slot, generation, detail};
}

bool router_next_event(struct router *self, struct router_event *event) {
    if (self->event_count == 0)
        return false;
    *event = self->events[self->event_head];
    self->event_head = (self->event_head + 1) % ROUTER_EVENTS;
    self->event_count--;
    return true;
}

void router_quarantine(struct router *self, uint32_t slot, enum quarantine_reason reason) {
    struct lane *lane = &self->lane[slot];
    if (lane->quarantined)
        return;
    lane->quarantined = true;
    /* Before the bytes that show it are given back: a successor would not see them. */
    shared_store(&segment_mark(self->segment, slot)->quarantined, lane->generation * 8 + reason);
    shared_add(&self->control->count.quarantined, 1);
    router_tell(self, EVENT_QUARANTINE, slot, lane->generation, reason);
}

/* ---- the turn ---- */

static bool is_from(const struct record *header, uint32_t slot, uint64_t generation) {
    return header->source == WORKER_ID(slot, generation);
}

static uint64_t drain(struct router *self, uint32_t slot, uint64_t records_max, uint64_t bytes_max) {
    struct lane *lane = &self->lane[slot];
    struct ring_in *up = &lane->up;
    uint64_t records = 0, begin = up->head;
    while (!lane->quarantined && records < records_max && up->head - begin < bytes_max) {
        struct record header;
        const uint8_t *body;
        enum ring_status status = ring_peek(up, &header, &body);
        if (status == RING_EMPTY)
            break;
        if (status != RING_OK) {
            router_quarantine(self, slot, BROKEN_RING);
            break;
        }
        if (!is_from(&header, slot, lane->generation)) {
            router_quarantine(self, slot, BROKEN_SOURCE);
            break;
        }
        if ((header.flags & ~FLAGS_KNOWN) != 0 || header.name_length > header.length - sizeof header ||
            ((header.flags & FLAG_LARGE) != 0 && header.length != sizeof header + sizeof(struct large_payload))) {
            router_quarantine(self, slot, BROKEN_RECORD);
            break;
        }
        if (__builtin_expect(header.type == RECORD_MESSAGE, 1)) {
            fanout_stage(self, &header, body);
            ring_advance(up, &header);
            records++;
            if (self->staged == OP_RECORDS || self->staged_bytes >= STAGED_BYTES_MAX) {
                fanout_commit(self, slot, up->head);
                fanout_notify(self);
            }
            continue;
        }
        fanout_commit(self, slot, up->head);
        if (!membership_control(self, slot, &header, body))
            break;
        ring_advance(up, &header);
        fanout_commit(self, slot, up->head);
        records++;
    }
    if (up->head != up->released)
        fanout_commit(self, slot, up->head);
    fanout_notify(self);
    if (records != 0) {
        /* A producer that waits is woken when half the ring is free: stop and go costs more than a little delay. */
        notify_fence();
        uint64_t tail = shared_load(&up->theirs->tail);
        if (tail - up->head <= up->capacity / 2 && notify_due(&lane->room))
            notify_write(lane->room.fd);
    }
    return records;
}

struct ring_in router_up(const struct segment *segment, uint32_t slot) {
    uint64_t head = shared_load(&segment_up_head(segment, slot)->head);
    return (struct ring_in){.data = segment_up_data(segment, slot),
                            .capacity = segment->at.up_bytes,
                            .head = head,
                            .released = head,
                            .tail_seen = head,
                            .mine = segment_up_head(segment, slot),
                            .theirs = &segment_worker(segment, slot)->up};
}

static bool attach(struct router *self, uint32_t slot, uint64_t generation) {
    const struct segment *segment = self->segment;
    struct worker_control *worker = segment_worker(segment, slot);
    struct lane *lane = &self->lane[slot];
    size_t words = (segment->at.rows + 63) / 64;
    if (lane->member == NULL && (lane->member = calloc(words, sizeof *lane->member)) == NULL)
        return false;
    lane->up = router_up(segment, slot);
    struct producer_line *down = segment_down_tail(segment, slot);
    uint64_t tail = shared_load(&down->tail);
    lane->down = (struct ring_out){.data = segment_down_data(segment, slot),
                                   .capacity = segment->at.down_bytes,
                                   .tail = tail,
                                   .published = tail,
                                   .head_seen = tail >= segment->at.down_bytes ? tail - segment->at.down_bytes : 0,
                                   .mine = down,
                                   .theirs = &worker->down};
    lane->bell = (struct doorbell){.epoch = &worker->armed, .fd = self->eventfds[slot]};
    lane->room = (struct doorbell){.epoch = &worker->up.want, .fd = self->eventfds[slot]};
    lane->want = shared_load(&down->want);
    lane->generation = generation;
    lane->id = WORKER_ID(slot, generation);
    self->conduct[slot] = (struct conduct){0};
    lane->attached = true;
    lane->quarantined = lane->pending_prefix = lane->resync_due = lane->dying = false;
    self->live[self->live_count++] = slot;
    router_tell(self, EVENT_ATTACHED, slot, generation, 0);
    uint64_t found = shared_load(&segment_mark(segment, slot)->quarantined);
    if (found / 8 == generation) { /* by a predecessor, whose word may have been lost */
        lane->quarantined = true;
        router_tell(self, EVENT_QUARANTINE, slot, generation, found % 8);
    }
    if (ring_refresh_head(&lane->down) != RING_OK)
        router_quarantine(self, slot, BROKEN_HEAD);
    return true;
}

/* Peers look only at the direct rings of those they know to be here. */
static void announce(struct router *self, uint32_t slot, uint64_t generation, enum record_type type) {
    for (uint32_t i = 0; i < self->live_count; i++) {
        struct record news = {.length = sizeof news, .type = (uint8_t)type, .source = WORKER_ID(slot, generation)};
        if (self->live[i] != slot)
            fanout_control(self, self->live[i], &news, NULL);
    }
}

/* Those who attach at the same time do not see each other in the table: the newcomer is told of everyone, too. */
static void introduce(struct router *self, uint32_t newcomer) {
    for (uint32_t i = 0; i < self->live_count; i++) {
        struct record news = {.length = sizeof news, .type = RECORD_HERE, .source = self->lane[self->live[i]].id};
        if (self->live[i] != newcomer)
            fanout_control(self, newcomer, &news, NULL);
    }
}

/* The new ones stand behind the others in `live`.  False: there is one for whom there is no memory now. */
static bool find_attached(struct router *self) {
    bool all = true;
    self->since_scan = 0;
    for (uint32_t slot = 1; slot < self->segment->at.slots; slot++) {
        struct lane *lane = &self->lane[slot];
        if (lane->attached)
            continue;
        uint64_t generation = segment_generation(self->segment, slot);
        if (generation != lane->buried && segment_attached(self->segment, slot, generation))
            all = attach(self, slot, generation) && all;
    }
    return all;
}

static void scan(struct router *self) {
    uint32_t known = self->live_count;
    (void)find_attached(self); /* whom there is no memory for is found again by the next scan */
    for (uint32_t i = known; i < self->live_count; i++) {
        announce(self, self->live[i], self->lane[self->live[i]].generation, RECORD_HERE);
        introduce(self, self->live[i]);
    }
}

uint64_t router_turn(struct router *self, uint64_t now_ns, uint64_t now_real_ns, bool *more) {
    self->now_ns = now_ns;
    self->now_real_ns = now_real_ns;
    self->deliveries = 0;
    *more = false;
    if (self->sweep_due)
        membership_sweep(self);
    if (++self->since_scan >= SCAN_EVERY)
        scan(self);
    if (self->spilling != 0 && fanout_flush(self))
        *more = true;
    fanout_notify(self);
    uint64_t records = 0;
    for (uint32_t i = 0; i < self->live_count; i++) {
        if (self->event_count + EVENTS_SPARE > ROUTER_EVENTS) {
            *more = true;
            break;
        }
        uint32_t slot = self->live[(self->next + i) % self->live_count];
        struct lane *lane = &self->lane[slot];
        if (lane->down.broken)
            router_quarantine(self, slot, BROKEN_HEAD);
        if (lane->quarantined || lane->pending_prefix)
            continue;
        uint64_t taken = drain(self, slot, self->limits.turn_records, self->limits.turn_bytes);
        records += taken;
        if (taken != 0)
            *more = true;
    }
    if (self->live_count != 0)
        self->next = (self->next + 1) % self->live_count;
    struct router_counters *count = &self->control->count;
    shared_add(&count->turns, 1);
    shared_add(&count->records, records);
    shared_add(&count->deliveries, self->deliveries);
    return records;
}

static bool something_there(struct router *self) {
    for (uint32_t i = 0; i < self->live_count; i++) {
        struct lane *lane = &self->lane[self->live[i]];
        bool reads = !lane->quarantined && !lane->pending_prefix;
        if (reads && atomic_load_explicit(&lane->up.theirs->tail, memory_order_acquire) != lane->up.head)
            return true;
        if (lane->spill.first != NULL && !lane->down.broken &&
            lane->down.capacity - (lane->down.tail - shared_load(&lane->down.theirs->head)) >= lane->down.capacity / 2)
            return true;
    }
    return self->event_count != 0;
}

bool router_look(struct router *self, uint64_t spin_ns) {
    if (something_there(self))
        return true;
    if (spin_ns == 0)
        return false;
    uint64_t until = router_clock_ns(CLOCK_MONOTONIC) + spin_ns;
    do {
        sched_yield();
        if (something_there(self))
            return true;
    } while (router_clock_ns(CLOCK_MONOTONIC) < until);
    return false;
}

bool router_sleep(struct router *self) {
    for (uint32_t i = 0; self->spilling != 0 && i < self->live_count; i++) {
        struct lane *lane = &self->lane[self->live[i]];
        if (lane->spill.first != NULL) {
            lane->want += (lane->want & 1) != 0 ? 2 : 1;
            shared_store(&lane->down.mine->want, lane->want);
        }
    }
    (void)notify_arm(&self->control->armed);
    scan(self);
    if (something_there(self)) {
        router_awake(self);
        return false;
    }
    return true;
}

void router_awake(struct router *self) {
    notify_disarm(&self->control->armed);
    for (uint32_t i = 0; i < self->live_count; i++) {
        struct lane *lane = &self->lane[self->live[i]];
        if ((lane->want & 1) != 0)
            shared_store(&lane->down.mine->want, ++lane->want);
    }
    self->since_scan = SCAN_EVERY;
}

/* ---- burial, opening, closing ---- */

/* From the bitmaps: the rows that this slot is in. */
static void restore_members(struct router *self, uint32_t slot) {
    for (uint32_t row = 0; row < self->segment->at.rows; row++)
        if (table_is_used(&self->table, row) &&
            (bit_get(segment_row(self->segment, row)->words, slot) ||
             bit_get(row_exact(self->segment, segment_row(self->segment, row)), slot))) {
            self->lane[slot].member[row / 64] |= 1ull << (row % 64);
            membership_made_by(self, slot, row); /* as far as can be told now: by the first of those who are in it */
        }
}

bool router_bury(struct router *self, uint32_t slot, uint64_t generation) {
    if (slot == ROUTER_SLOT || slot >= self->segment->at.slots || self->lane[slot].buried == generation)
        return true;
    struct lane *lane = &self->lane[slot];
    if (!lane->attached &&
        atomic_load_explicit(&segment_worker(self->segment, slot)->attached, memory_order_acquire) == generation) {
        if (!attach(self, slot, generation))
            return false;
        restore_members(self, slot); /* it lived too briefly for a scan, or died before this router began */
    }
    if (lane->attached && lane->generation == generation) {
        lane->dying = true;
        lane->pending_prefix = false;
        while (drain(self, slot, UINT64_MAX, UINT64_MAX) != 0) /* what it committed is routed */
            ;
        for (uint32_t word = 0; word * 64 < self->segment->at.rows; word++)
            for (uint64_t bits = lane->member[word]; bits != 0; bits &= bits - 1)
                membership_end(self, slot, word * 64 + (uint32_t)__builtin_ctzll(bits));
        lane->attached = false;
        uint32_t kept = 0;
        for (uint32_t i = 0; i < self->live_count; i++)
            if (self->live[i] != slot)
                self->live[kept++] = self->live[i];
        self->live_count = kept;
        fanout_drop_spill(self, slot);
        free(lane->member);
        lane->member = NULL;
    }
    shared_store(&segment_mark(self->segment, slot)->spilled, 0);
    lane->buried = generation;
    announce(self, slot, generation, RECORD_GONE); /* behind everything that it said */
    fanout_notify(self);
    for (uint32_t i = 0; i < self->live_count; i++) {
        notify_write(self->eventfds[self->live[i]]); /* armed or not: it may have died between its tail and its call */
        shared_add(&self->control->count.kicks, 1);
    }
    notify_clear(self->eventfds[slot]);
    return true;
}

bool router_open(struct router *self, const struct segment *segment, const int *eventfds,
                 const struct router_limits *limits, const bool *imports, uint64_t now_ns, uint64_t now_real_ns) {
    memset(self, 0, sizeof *self);
    self->segment = segment;
    self->control = segment_router(segment);
    self->eventfds = eventfds;
    self->limits = *limits;
    self->now_ns = now_ns;
    self->now_real_ns = now_real_ns;
    self->shadow = calloc(segment->at.rows, sizeof *self->shadow);
    if (self->shadow == NULL || table_open(&self->table, segment) != TABLE_OK) {
        router_close(self);
        return false;
    }
    shared_store(&self->control->count.rows_used, self->table.used);
    for (uint32_t row = 0; row < segment->at.rows; row++)
        self->shadow[row] =
            (struct row_shadow){.sequence = shared_load(&segment_row(segment, row)->sequence), .used_ns = now_ns};
    /* Nothing may be put into a ring before the open operation is finished: its marks tell by the tails who has got it.
     * Whom a predecessor served is served from the start, or the open operation would pass by him. */
    if (!find_attached(self)) {
        router_close(self);
        return false;
    }
    for (uint32_t i = 0; i < self->live_count; i++)
        restore_members(self, self->live[i]);
    fanout_recover(self);
    bool had_predecessor = shared_load(&self->control->heartbeat_ns) != 0;
    for (uint32_t i = 0; i < self->live_count; i++) {
        uint32_t slot = self->live[i];
        announce(self, slot, self->lane[slot].generation, RECORD_HERE);
        if (!had_predecessor)
            continue;
        if (shared_load(&segment_mark(segment, slot)->spilled) != 0 && (imports == NULL || !imports[slot])) {
            fanout_tell_all_gaps(self, slot);
            if (!self->lane[slot].behind)
                shared_store(&segment_mark(segment, slot)->spilled, 0);
        }
        struct record again = {.length = sizeof again, .type = RECORD_RESYNC, .source = WORKER_ID(ROUTER_SLOT, 1)};
        fanout_control(self, slot, &again, NULL);
        notify_write(eventfds[slot]);
    }
    self->sweep_due = had_predecessor;
    fanout_notify(self);
    shared_store(&self->control->heartbeat_ns, now_ns);
    router_awake(self);
    return true;
}

void router_close(struct router *self) {
    table_close(&self->table);
    for (uint32_t slot = 0; slot < SLOTS_MAX; slot++) {
        spill_clear(&self->lane[slot].spill);
        free(self->lane[slot].member);
    }
    free(self->shadow);
    free(self->journal);
    memset(self, 0, sizeof *self);
}
