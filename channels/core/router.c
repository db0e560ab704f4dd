/* The turn, the table's changes, the arrival and burial of workers.  See router.h. */
#define _GNU_SOURCE
#include "router.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fanout.h"

#define STAGED_BYTES_MAX (32u * 1024u) /* a batch is visible to its readers at the latest after this much */
#define SCAN_EVERY 64u                 /* turns between two looks for workers that attached without ringing */
#define EVICT_LOOKS 4096u
#define EVENTS_SPARE (SLOTS_MAX + 8u)

uint64_t router_clock_ns(int clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* ---- events ---- */

static void tell(struct router *self, uint32_t type, uint32_t slot, uint64_t generation, uint64_t detail) {
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

static void quarantine(struct router *self, uint32_t slot, enum quarantine_reason reason) {
    struct lane *lane = &self->lane[slot];
    if (lane->quarantined)
        return;
    lane->quarantined = true;
    shared_add(&self->control->count.quarantined, 1);
    tell(self, EVENT_QUARANTINE, slot, lane->generation, reason);
}

/* ---- rows ---- */

static void note_row(struct router *self, uint32_t row) {
    if (!self->journal_on || self->journal_lost)
        return;
    if (self->journal_count == self->journal_capacity) {
        uint32_t capacity = self->journal_capacity == 0 ? 1024 : self->journal_capacity * 2;
        uint32_t *grown = capacity > 1u << 20 ? NULL : realloc(self->journal, capacity * sizeof *grown);
        if (grown == NULL) {
            self->journal_lost = true;
            return;
        }
        self->journal = grown;
        self->journal_capacity = capacity;
    }
    self->journal[self->journal_count++] = row;
}

static void free_row(struct router *self, uint32_t row) {
    table_free(&self->table, row);
    note_row(self, row);
    shared_store(&self->control->count.rows_used, self->table.used);
}

static void free_if_empty(struct router *self, uint32_t row) {
    if (table_is_used(&self->table, row) && table_is_empty(&self->table, row))
        free_row(self, row);
}

/* A row that only prefixes keep, unused for so long that no worker can still be in the middle of a send to it. */
static bool evict(struct router *self) {
    uint64_t oldest = self->now_ns;
    for (uint32_t i = 0; i < self->live_count; i++) {
        uint64_t beat = shared_load(&segment_worker(self->segment, self->live[i])->heartbeat_ns);
        oldest = beat < oldest ? beat : oldest;
    }
    uint32_t words = self->segment->at.slot_words;
    for (uint32_t i = 0; i < EVICT_LOOKS && i < self->segment->at.rows; i++) {
        uint32_t number = self->evict_hand;
        self->evict_hand = (number + 1) % self->segment->at.rows;
        if (!table_is_used(&self->table, number) || table_is_prefix(&self->table, number) ||
            self->shadow[number].used_ns + self->limits.row_idle_ns > oldest)
            continue;
        uint64_t exact = 0;
        for (uint32_t w = 0; w < words; w++)
            exact |= shared_load(&segment_row(self->segment, number)->words[words + w]);
        if (exact != 0)
            continue;
        for (uint32_t slot = 1; slot < self->segment->at.slots; slot++)
            if (self->lane[slot].member != NULL)
                self->lane[slot].member[number / 64] &= ~(1ull << (number % 64));
        free_row(self, number);
        return true;
    }
    return false;
}

static uint32_t make_row(struct router *self, const uint8_t *name, size_t length, bool prefix) {
    uint64_t epoch = shared_load(&self->control->last_epoch) + 1;
    if (epoch < self->now_real_ns / 1000)
        epoch = self->now_real_ns / 1000;
    shared_store(&self->control->last_epoch, epoch);
    uint32_t row = ROW_NONE;
    if (table_make(&self->table, name, length, prefix, epoch, &row) != TABLE_OK &&
        (!evict(self) || table_make(&self->table, name, length, prefix, epoch, &row) != TABLE_OK)) {
        shared_add(&self->control->count.table_full, 1);
        return ROW_NONE;
    }
    self->shadow[row] = (struct row_shadow){0, self->now_ns};
    for (uint32_t i = 0; i < self->live_count; i++) /* who is in it already by a prefix */
        if (bit_get(segment_row(self->segment, row)->words, self->live[i]))
            self->lane[self->live[i]].member[row / 64] |= 1ull << (row % 64);
    note_row(self, row);
    shared_store(&self->control->count.rows_used, self->table.used);
    return row;
}

static void enter_row(struct router *self, uint32_t slot, uint32_t number, bool exact) {
    struct row *row = segment_row(self->segment, number);
    if (exact)
        bit_set(row_exact(self->segment, row), slot);
    self->lane[slot].member[number / 64] |= 1ull << (number % 64);
    /* Release: who sees the bit sees the row that it is in. */
    shared64 *word = &row->words[slot / 64];
    atomic_store_explicit(word, shared_load(word) | 1ull << (slot % 64), memory_order_release);
}

static void leave_row(struct router *self, uint32_t slot, uint32_t number) {
    struct row *row = segment_row(self->segment, number);
    bit_clear(row->words, slot);
    bit_clear(row_exact(self->segment, row), slot);
    self->lane[slot].member[number / 64] &= ~(1ull << (number % 64));
    free_if_empty(self, number);
}

/* Does the slot stay in the row because of a prefix? */
static bool has_prefix(const struct router *self, uint32_t slot, uint32_t number) {
    uint32_t length;
    const uint8_t *name = table_row_name(&self->table, number, &length);
    for (uint32_t part = 0; part <= length; part++) {
        if (self->table.prefixes[part] == 0)
            continue;
        uint32_t prefix = table_find(&self->table, name, part, true);
        if (prefix != ROW_NONE && bit_get(segment_row(self->segment, prefix)->words, slot))
            return true;
    }
    return false;
}

/* ---- what workers ask for; each may be done twice ---- */

static void answer(struct router *self, uint32_t slot, const struct record *asked, uint64_t status, uint32_t number) {
    struct joined_payload payload = {asked->sequence, status};
    struct record joined = {.length = sizeof joined + sizeof payload,
                            .type = RECORD_JOINED,
                            .flags = asked->flags,
                            .source = WORKER_ID(ROUTER_SLOT, 1)};
    joined.row = number;
    if (number != ROW_NONE) {
        const struct row *row = segment_row(self->segment, number);
        joined.sequence = self->shadow[number].sequence;
        joined.row_generation = row_generation(shared_load(&row->version));
        joined.time_ns = shared_load(&row->epoch);
    }
    fanout_control(self, slot, &joined, &payload);
}

static void join(struct router *self, uint32_t slot, const struct record *header, const uint8_t *name, size_t length) {
    if (!table_name_ok(name, length)) {
        answer(self, slot, header, JOIN_BAD_NAME, ROW_NONE);
        return;
    }
    uint32_t row = table_find(&self->table, name, length, false);
    if (row == ROW_NONE)
        row = make_row(self, name, length, false);
    if (row == ROW_NONE) {
        answer(self, slot, header, JOIN_TABLE_FULL, ROW_NONE);
        return;
    }
    if ((header->flags & FLAG_OPEN) != 0) {
        bool nobody = table_is_empty(&self->table, row);
        answer(self, slot, header, nobody ? JOIN_NOBODY : JOIN_OK, nobody ? ROW_NONE : row);
        free_if_empty(self, row);
        return;
    }
    enter_row(self, slot, row, true);
    answer(self, slot, header, JOIN_OK, row);
}

static void leave(struct router *self, uint32_t slot, const uint8_t *name, size_t length) {
    uint32_t row = table_find(&self->table, name, length, false);
    if (row == ROW_NONE)
        return;
    if (has_prefix(self, slot, row)) {
        bit_clear(row_exact(self->segment, segment_row(self->segment, row)), slot);
        return;
    }
    leave_row(self, slot, row);
}

/* Is the ring that a worker complains of broken indeed?  The word of one worker alone must not end another. */
static bool direct_is_broken(const struct router *self, uint32_t from, uint32_t to) {
    struct producer_line *tail = segment_direct_tail(self->segment, from, to);
    struct ring_in ring = {.data = segment_direct_data(self->segment, from, to),
                           .capacity = self->segment->at.direct_bytes,
                           .theirs = tail};
    ring.head = ring.tail_seen =
        atomic_load_explicit(&segment_direct_head(self->segment, from, to)->head, memory_order_acquire);
    if (ring.head % RECORD_ALIGN != 0)
        return false;
    struct record header;
    const uint8_t *body;
    enum ring_status status = ring_peek(&ring, &header, &body);
    return status == RING_BROKEN ||
           (status == RING_OK && (WORKER_SLOT(header.source) != from || header.type < RECORD_ALERT ||
                                  header.type >= RECORD_TYPES || (header.flags & ~FLAGS_KNOWN) != 0));
}

static void report(struct router *self, uint32_t slot, worker_id accused) {
    uint32_t other = WORKER_SLOT(accused);
    if (other == ROUTER_SLOT || other >= self->segment->at.slots || other == slot || !self->lane[other].attached ||
        self->lane[other].generation != WORKER_GENERATION(accused))
        return;
    if (direct_is_broken(self, other, slot))
        quarantine(self, other, BROKEN_DIRECT);
}

/* One record that is not a message.  False: it stays first in its ring, an event says why. */
static bool control(struct router *self, uint32_t slot, const struct record *header, const uint8_t *body) {
    struct lane *lane = &self->lane[slot];
    uint8_t name[NAME_MAX_BYTES + 1];
    size_t length = header->length - sizeof *header;
    if (header->type == RECORD_REPORT) {
        report(self, slot, header->destination);
        return true;
    }
    if ((header->type != RECORD_JOIN && header->type != RECORD_LEAVE) || length > NAME_MAX_BYTES) {
        quarantine(self, slot, BROKEN_RECORD);
        return false;
    }
    if (lane->dying)
        return true;
    if ((header->flags & FLAG_PREFIX) != 0) {
        lane->pending_prefix = true;
        tell(self, EVENT_PREFIX, slot, lane->generation, 0);
        return false;
    }
    memcpy(name, body, length); /* once: what is checked is what is used */
    if (header->type == RECORD_JOIN)
        join(self, slot, header, name, length);
    else
        leave(self, slot, name, length);
    return true;
}

bool router_prefix_pending(struct router *self, uint32_t slot, uint8_t *name, uint32_t *length, bool *is_leave) {
    struct lane *lane = &self->lane[slot];
    struct record header;
    const uint8_t *body;
    if (!lane->attached || !lane->pending_prefix || ring_peek(&lane->up, &header, &body) != RING_OK ||
        header.length - sizeof header > NAME_MAX_BYTES)
        return false;
    *length = (uint32_t)(header.length - sizeof header);
    memcpy(name, body, *length);
    *is_leave = header.type == RECORD_LEAVE;
    return true;
}

static bool row_matches(const struct router *self, uint32_t number, const uint8_t *prefix, uint32_t length) {
    if (number >= self->segment->at.rows || !table_is_used(&self->table, number) ||
        table_is_prefix(&self->table, number))
        return false;
    uint32_t name_length;
    const uint8_t *name = table_row_name(&self->table, number, &name_length);
    return name_length >= length && memcmp(name, prefix, length) == 0;
}

void router_prefix(struct router *self, uint32_t slot, const uint32_t *rows, uint32_t count) {
    struct lane *lane = &self->lane[slot];
    uint8_t name[NAME_MAX_BYTES + 1];
    uint32_t length;
    bool is_leave;
    struct record header;
    const uint8_t *body;
    if (!router_prefix_pending(self, slot, name, &length, &is_leave) || ring_peek(&lane->up, &header, &body) != RING_OK)
        return;
    uint32_t row = table_find(&self->table, name, length, true);
    if (is_leave) {
        if (row != ROW_NONE)
            leave_row(self, slot, row);
        for (uint32_t i = 0; i < count; i++)
            if (row_matches(self, rows[i], name, length) &&
                !bit_get(row_exact(self->segment, segment_row(self->segment, rows[i])), slot) &&
                !has_prefix(self, slot, rows[i]))
                leave_row(self, slot, rows[i]);
    } else if (length != 0 && !table_name_ok(name, length)) {
        answer(self, slot, &header, JOIN_BAD_NAME, ROW_NONE);
    } else {
        if (row == ROW_NONE)
            row = make_row(self, name, length, true);
        if (row != ROW_NONE) {
            enter_row(self, slot, row, true); /* first: rows that are made from here on inherit it */
            for (uint32_t i = 0; i < count; i++)
                if (row_matches(self, rows[i], name, length))
                    enter_row(self, slot, rows[i], false);
        }
        answer(self, slot, &header, row == ROW_NONE ? JOIN_TABLE_FULL : JOIN_OK, row);
    }
    lane->pending_prefix = false;
    ring_advance(&lane->up, &header);
    fanout_commit(self, slot, lane->up.head);
    fanout_notify(self);
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
            quarantine(self, slot, BROKEN_RING);
            break;
        }
        if (!is_from(&header, slot, lane->generation)) {
            quarantine(self, slot, BROKEN_SOURCE);
            break;
        }
        if ((header.flags & ~FLAGS_KNOWN) != 0 || header.name_length > header.length - sizeof header ||
            ((header.flags & FLAG_LARGE) != 0 && header.length != sizeof header + sizeof(struct large_payload))) {
            quarantine(self, slot, BROKEN_RECORD);
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
        if (!control(self, slot, &header, body))
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

static bool attach(struct router *self, uint32_t slot, uint64_t generation) {
    const struct segment *segment = self->segment;
    struct worker_control *worker = segment_worker(segment, slot);
    struct lane *lane = &self->lane[slot];
    size_t words = (segment->at.rows + 63) / 64;
    if (lane->member == NULL && (lane->member = calloc(words, sizeof *lane->member)) == NULL)
        return false; /* asked again at the next scan */
    uint64_t up_head = shared_load(&segment_up_head(segment, slot)->head);
    lane->up = (struct ring_in){.data = segment_up_data(segment, slot),
                                .capacity = segment->at.up_bytes,
                                .head = up_head,
                                .released = up_head,
                                .tail_seen = up_head,
                                .mine = segment_up_head(segment, slot),
                                .theirs = &worker->up};
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
    lane->attached = true;
    lane->quarantined = lane->pending_prefix = lane->resync_due = lane->dying = false;
    self->live[self->live_count++] = slot;
    tell(self, EVENT_ATTACHED, slot, generation, 0);
    if (ring_refresh_head(&lane->down) != RING_OK)
        quarantine(self, slot, BROKEN_HEAD);
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

static void scan(struct router *self) {
    self->since_scan = 0;
    for (uint32_t slot = 1; slot < self->segment->at.slots; slot++) {
        struct lane *lane = &self->lane[slot];
        if (lane->attached)
            continue;
        uint64_t generation = segment_generation(self->segment, slot);
        if (generation != lane->buried && segment_attached(self->segment, slot, generation) &&
            attach(self, slot, generation)) {
            announce(self, slot, generation, RECORD_HERE);
            introduce(self, slot);
        }
    }
}

uint64_t router_turn(struct router *self, uint64_t now_ns, uint64_t now_real_ns, bool *more) {
    self->now_ns = now_ns;
    self->now_real_ns = now_real_ns;
    self->deliveries = 0;
    *more = false;
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
            quarantine(self, slot, BROKEN_HEAD);
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

void router_bury(struct router *self, uint32_t slot, uint64_t generation) {
    if (slot == ROUTER_SLOT || slot >= self->segment->at.slots || self->lane[slot].buried == generation)
        return;
    struct lane *lane = &self->lane[slot];
    if (!lane->attached &&
        atomic_load_explicit(&segment_worker(self->segment, slot)->attached, memory_order_acquire) == generation)
        (void)attach(self, slot, generation); /* it lived too briefly for a scan to see it */
    if (lane->attached && lane->generation == generation) {
        lane->dying = true;
        lane->pending_prefix = false;
        while (drain(self, slot, UINT64_MAX, UINT64_MAX) != 0) /* what it committed is routed */
            ;
        for (uint32_t word = 0; word * 64 < self->segment->at.rows; word++)
            for (uint64_t bits = lane->member[word]; bits != 0; bits &= bits - 1)
                leave_row(self, slot, word * 64 + (uint32_t)__builtin_ctzll(bits));
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
    lane->buried = generation;
    announce(self, slot, generation, RECORD_GONE); /* behind everything that it said */
    fanout_notify(self);
    for (uint32_t i = 0; i < self->live_count; i++) {
        notify_write(self->eventfds[self->live[i]]); /* armed or not: it may have died between its tail and its call */
        shared_add(&self->control->count.kicks, 1);
    }
    notify_clear(self->eventfds[slot]);
}

static void restore_members(struct router *self) {
    for (uint32_t row = 0; row < self->segment->at.rows; row++) {
        if (!table_is_used(&self->table, row))
            continue;
        struct row *at = segment_row(self->segment, row);
        self->shadow[row] = (struct row_shadow){shared_load(&at->sequence), self->now_ns};
        for (uint32_t i = 0; i < self->segment->at.slot_words; i++)
            for (uint64_t bits = shared_load(&at->words[i]); bits != 0; bits &= bits - 1) {
                struct lane *lane = &self->lane[i * 64 + (uint32_t)__builtin_ctzll(bits)];
                if (lane->member != NULL)
                    lane->member[row / 64] |= 1ull << (row % 64);
            }
    }
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
    scan(self);
    bool had_predecessor = shared_load(&self->control->heartbeat_ns) != 0;
    fanout_recover(self);
    restore_members(self);
    for (uint32_t i = 0; had_predecessor && i < self->live_count; i++) {
        uint32_t slot = self->live[i];
        if (shared_load(&segment_mark(segment, slot)->spilled) != 0 && (imports == NULL || !imports[slot]))
            fanout_tell_all_gaps(self, slot);
        struct record again = {.length = sizeof again, .type = RECORD_RESYNC, .source = WORKER_ID(ROUTER_SLOT, 1)};
        fanout_control(self, slot, &again, NULL);
        notify_write(eventfds[slot]);
    }
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
