/* Staging, committing, spilling.  See fanout.h; the order of stores is docs/protocol/router_crash.pml's. */
#include "fanout.h"

#include <string.h>

#define CONTROL_EXTRA_BYTES (4u << 20) /* records of the router's own may exceed the hard bound by so much */

static void touch(struct router *self, struct lane *lane) {
    if (lane->touched)
        return;
    lane->touched = true;
    self->touched[self->touched_count++] = (uint32_t)(lane - self->lane);
}

static bool is_message(const struct record *header) { return header->type == RECORD_MESSAGE; }

static void lose(struct router *self, struct lane *lane, const struct record *header) {
    if (is_message(header)) {
        spill_note_loss(&lane->spill, header->row, header->row_generation, header->sequence);
        shared_add(&self->control->count.dropped, 1);
    } else {
        lane->resync_due = true;
    }
}

static void fall_behind(struct router *self, struct lane *lane) {
    if (lane->behind)
        return;
    lane->behind = true;
    self->spilling++;
    shared_store(&segment_mark(self->segment, (uint32_t)(lane - self->lane))->spilled, 1);
}

static void spill(struct router *self, struct lane *lane, const struct record *header, const void *body) {
    struct spill *store = &lane->spill;
    uint64_t after = store->bytes + record_span(header->length);
    const struct router_limits *limits = &self->limits;
    if (after <= limits->spill_soft_bytes)
        store->soft_since_ns = 0;
    else if (store->soft_since_ns == 0)
        store->soft_since_ns = self->now_ns;
    bool too_long = store->soft_since_ns != 0 && self->now_ns - store->soft_since_ns > limits->spill_soft_ns;
    uint64_t bound = limits->spill_hard_bytes + (is_message(header) ? 0 : CONTROL_EXTRA_BYTES);
    if (after > bound || (too_long && is_message(header)) || !spill_put(store, header, body))
        lose(self, lane, header);
    else {
        shared_add(&self->control->count.spilled, 1);
        if (is_message(header))
            self->shadow[header->row].waiting++;
    }
    fall_behind(self, lane);
}

static void unspill(struct router *self, struct lane *lane) {
    const struct record *record = spill_peek(&lane->spill);
    if (is_message(record)) {
        self->shadow[record->row].waiting--;
        self->shadow[record->row].used_ns = self->now_ns;
    }
    spill_pop(&lane->spill);
}

bool fanout_row_is_awaited(const struct router *self, uint32_t row) {
    if (self->shadow[row].waiting != 0)
        return true;
    for (uint32_t i = 0; self->spilling != 0 && i < self->live_count; i++) {
        const struct spill *store = &self->lane[self->live[i]].spill;
        for (uint32_t k = 0; k < store->note_count; k++)
            if (store->notes[k].row == row)
                return true;
        if (store->notes_overflowed)
            return true;
    }
    return false;
}

/* Behind the tail of the slot's ring, or behind what was spilled before it. */
static void put(struct router *self, struct lane *lane, const struct record *header, const void *body) {
    struct record *place;
    if (__builtin_expect(!lane->behind, 1)) {
        enum ring_status status = ring_claim(&lane->down, header->length, &place);
        if (__builtin_expect(status == RING_OK, 1)) {
            memcpy(place, header, sizeof *header);
            if (header->length > sizeof *header)
                memcpy(place + 1, body, header->length - sizeof *header);
            touch(self, lane);
            return;
        }
        if (status == RING_BROKEN)
            return; /* router_turn sees lane->down.broken and has it replaced */
    }
    spill(self, lane, header, body);
}

/* The same for a message of a worker's, with what the router adds to its header. */
static inline void put_message(struct router *self, struct lane *lane, const struct record *header, uint64_t sequence,
                               const uint8_t *body) {
    struct record *place;
    if (__builtin_expect(!lane->behind && ring_claim(&lane->down, header->length, &place) == RING_OK, 1)) {
        place->length = header->length;
        place->type = RECORD_MESSAGE;
        place->flags = header->flags & FLAG_LARGE;
        place->name_length = header->name_length;
        place->hops = 0;
        place->source = header->source;
        place->destination = lane->id;
        place->sequence = sequence;
        place->row = header->row;
        place->row_generation = header->row_generation;
        place->time_ns = self->now_real_ns;
        memcpy(place + 1, body, header->length - sizeof *header);
        touch(self, lane);
        return;
    }
    struct record out = *header;
    out.flags = header->flags & FLAG_LARGE;
    out.hops = 0;
    out.destination = lane->id;
    out.sequence = sequence;
    out.time_ns = self->now_real_ns;
    put(self, lane, &out, body);
}

void fanout_stage(struct router *self, const struct record *header, const uint8_t *body) {
    const struct segment *segment = self->segment;
    struct op_log *op = &self->control->op[(shared_load(&self->control->current) + 1) & 1];
    uint64_t sequence = 0;
    struct row *row = header->row < segment->at.rows ? segment_row(segment, header->row) : NULL;
    if (row != NULL && row_generation(shared_load(&row->version)) == header->row_generation &&
        (atomic_load_explicit(&row->flags, memory_order_relaxed) & (ROW_USED | ROW_PREFIX)) == ROW_USED) {
        struct row_shadow *shadow = &self->shadow[header->row];
        sequence = ++shadow->sequence;
        shadow->used_ns = self->now_ns;
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < segment->at.slot_words; i++) {
            for (uint64_t bits = shared_load(&row->words[i]); bits != 0; bits &= bits - 1) {
                struct lane *lane = &self->lane[i * 64 + (uint32_t)__builtin_ctzll(bits)];
                if (__builtin_expect(!lane->attached, 0))
                    continue;
                put_message(self, lane, header, sequence, body);
                bytes += header->length;
                self->deliveries++;
            }
        }
        self->staged_bytes += bytes;
    } else {
        /* Everyone had left this row after the sender looked: whoever joined since, joined after it was sent. */
        shared_add(&self->control->count.stale, 1);
    }
    op->row[self->staged] = header->row;
    op->sequence[self->staged++] = sequence;
}

/* Marks and tail of each destination, in the order that lets a successor tell who has got the batch. */
static void publish_touched(struct router *self, uint64_t operation) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < self->touched_count; i++) {
        struct lane *lane = &self->lane[self->touched[i]];
        if (lane->down.tail == lane->down.published)
            continue;
        if (operation != 0) {
            struct fanout_mark *mark = segment_mark(self->segment, self->touched[i]);
            shared_store(&mark->tail_before, lane->down.published);
            atomic_store_explicit(&mark->operation, operation, memory_order_release);
        }
        bytes += lane->down.tail - lane->down.published;
        ring_publish(&lane->down);
    }
    shared_add(&self->control->count.bytes, bytes);
}

void fanout_commit(struct router *self, uint32_t source, uint64_t end) {
    struct router_control *control = self->control;
    struct ring_in *up = &self->lane[source].up;
    if (self->staged != 0) {
        uint64_t operation = shared_load(&control->current) + 1;
        struct op_log *op = &control->op[operation & 1];
        op->slot = source;
        op->begin = up->released;
        op->end = end;
        op->count = self->staged;
        atomic_store_explicit(&control->current, operation, memory_order_release); /* the operation is open */
        publish_touched(self, operation);
        for (uint32_t i = 0; i < self->staged; i++)
            if (op->sequence[i] != 0)
                shared_store(&segment_row(self->segment, op->row[i])->sequence, op->sequence[i]);
        self->staged = 0;
        self->staged_bytes = 0;
    }
    ring_release(up); /* the operation is closed */
}

void fanout_control(struct router *self, uint32_t slot, struct record *header, const void *body) {
    struct lane *lane = &self->lane[slot];
    header->destination = lane->id;
    put(self, lane, header, body);
    if (lane->down.tail != lane->down.published)
        ring_publish(&lane->down);
}

static struct record gap_record(uint32_t row, uint32_t row_gen, uint64_t sequence) {
    return (struct record){.length = sizeof(struct record),
                           .type = RECORD_GAP,
                           .source = WORKER_ID(ROUTER_SLOT, 1),
                           .sequence = sequence,
                           .row = row,
                           .row_generation = row_gen};
}

void fanout_tell_all_gaps(struct router *self, uint32_t slot) {
    struct lane *lane = &self->lane[slot];
    for (uint32_t word = 0; word * 64 < self->segment->at.rows; word++) {
        for (uint64_t bits = lane->member[word]; bits != 0; bits &= bits - 1) {
            uint32_t number = word * 64 + (uint32_t)__builtin_ctzll(bits);
            if (table_is_prefix(&self->table, number))
                continue;
            uint64_t version = shared_load(&segment_row(self->segment, number)->version);
            struct record gap = gap_record(number, row_generation(version), self->shadow[number].sequence);
            fanout_control(self, slot, &gap, NULL);
        }
    }
}

/* A gap behind what waits, for each channel that lost its newest; the notes are empty then. */
static void notes_to_gaps(struct router *self, uint32_t slot) {
    struct spill *store = &self->lane[slot].spill;
    struct spill losses = *store;
    store->note_count = 0;
    store->notes_overflowed = false;
    for (uint32_t i = 0; i < losses.note_count; i++) {
        struct record gap = gap_record(losses.notes[i].row, losses.notes[i].row_generation, losses.notes[i].sequence);
        fanout_control(self, slot, &gap, NULL);
    }
    if (losses.notes_overflowed)
        fanout_tell_all_gaps(self, slot);
}

void fanout_seal(struct router *self, uint32_t slot) {
    if (self->lane[slot].behind)
        notes_to_gaps(self, slot);
}

static void tell_losses(struct router *self, uint32_t slot) {
    struct lane *lane = &self->lane[slot];
    bool resync = lane->resync_due;
    lane->resync_due = false;
    notes_to_gaps(self, slot);
    if (resync) {
        struct record again = {.length = sizeof again, .type = RECORD_RESYNC, .source = WORKER_ID(ROUTER_SLOT, 1)};
        fanout_control(self, slot, &again, NULL);
    }
}

/* Its spill is empty.  What was lost is told before the mark goes, or a successor would not know that something was. */
static void catch_up(struct router *self, uint32_t slot) {
    struct lane *lane = &self->lane[slot];
    lane->behind = false;
    self->spilling--;
    tell_losses(self, slot); /* may spill again, and is counted again then */
    if (!lane->behind)
        shared_store(&segment_mark(self->segment, slot)->spilled, 0);
}

bool fanout_flush(struct router *self) {
    bool moved = false;
    for (uint32_t i = 0; self->spilling != 0 && i < self->live_count; i++) {
        uint32_t slot = self->live[i];
        struct lane *lane = &self->lane[slot];
        if (!lane->behind)
            continue;
        const struct record *record;
        while ((record = spill_peek(&lane->spill)) != NULL) {
            struct record *place;
            if (ring_claim(&lane->down, record->length, &place) != RING_OK)
                break;
            memcpy(place, record, record->length);
            unspill(self, lane);
            touch(self, lane);
            moved = true;
        }
        if (lane->down.tail != lane->down.published)
            ring_publish(&lane->down);
        if (lane->spill.bytes <= self->limits.spill_soft_bytes)
            lane->spill.soft_since_ns = 0;
        if (lane->spill.first != NULL)
            continue;
        catch_up(self, slot);
    }
    return moved;
}

void fanout_drop_spill(struct router *self, uint32_t slot) {
    struct lane *lane = &self->lane[slot];
    if (!lane->behind)
        return;
    while (spill_peek(&lane->spill) != NULL) {
        unspill(self, lane);
        shared_add(&self->control->count.dropped_dead, 1);
    }
    spill_clear(&lane->spill);
    lane->resync_due = lane->behind = false;
    self->spilling--;
    shared_store(&segment_mark(self->segment, slot)->spilled, 0);
}

static bool goes_down(const struct router *self, const struct record *header) {
    uint32_t body = header->length - (uint32_t)sizeof *header;
    if (header->name_length > body || (header->flags & ~FLAGS_KNOWN) != 0)
        return false;
    if (is_message(header))
        return header->row < self->segment->at.rows &&
               ((header->flags & FLAG_LARGE) == 0 || body == sizeof(struct large_payload));
    if (header->type == RECORD_JOINED)
        return body == sizeof(struct joined_payload);
    return header->type > RECORD_JOINED && header->type < RECORD_ALERT;
}

bool fanout_import(struct router *self, uint32_t slot, const uint8_t *data, uint64_t size) {
    struct lane *lane = &self->lane[slot];
    while (size != 0) {
        struct record header;
        if (size < sizeof header)
            return false;
        memcpy(&header, data, sizeof header);
        uint64_t span = record_span(header.length);
        if (header.length < sizeof header || span > size || span > ring_record_max(lane->down.capacity) ||
            header.destination != lane->id || !goes_down(self, &header))
            return false;
        if (header.type == RECORD_GAP) { /* a note again: it keeps the row from being given away */
            spill_note_loss(&lane->spill, header.row, header.row_generation, header.sequence);
            fall_behind(self, lane);
        } else
            spill(self, lane, &header, data + sizeof header);
        data += span;
        size -= span;
    }
    return true;
}

void fanout_recover(struct router *self) {
    const struct segment *segment = self->segment;
    uint64_t operation = atomic_load_explicit(&self->control->current, memory_order_acquire);
    const struct op_log *op = &self->control->op[operation & 1];
    if (operation == 0 || op->slot == ROUTER_SLOT || op->slot >= segment->at.slots || op->count > OP_RECORDS)
        return;
    uint32_t source = (uint32_t)op->slot;
    struct consumer_line *up_head = segment_up_head(segment, source);
    if (shared_load(&up_head->head) != op->begin)
        return; /* it was closed */
    bool has_it[SLOTS_MAX] = {false}, lost_some[SLOTS_MAX] = {false};
    for (uint32_t i = 0; i < self->live_count; i++) {
        const struct fanout_mark *mark = segment_mark(segment, self->live[i]);
        has_it[self->live[i]] = shared_load(&mark->operation) == operation &&
                                self->lane[self->live[i]].down.published != shared_load(&mark->tail_before);
        lost_some[self->live[i]] = shared_load(&mark->spilled) != 0;
    }
    struct ring_in up = {.data = segment_up_data(segment, source),
                         .capacity = segment->at.up_bytes,
                         .head = op->begin,
                         .released = op->begin,
                         .tail_seen = op->end,
                         .mine = up_head,
                         .theirs = &segment_worker(segment, source)->up};
    for (uint64_t i = 0; i < op->count && up.head < op->end; i++) {
        struct record header;
        const uint8_t *body;
        if (ring_peek(&up, &header, &body) != RING_OK)
            break;
        ring_advance(&up, &header);
        if (op->sequence[i] == 0 || header.row != op->row[i] || header.row >= segment->at.rows)
            continue; /* the sender may have written over it; the log is the router's own */
        const struct row *row = segment_row(segment, header.row);
        bool is_first = true;
        for (uint64_t k = 0; k < i; k++)
            is_first = is_first && (op->sequence[k] == 0 || op->row[k] != header.row);
        header.sequence = op->sequence[i];
        header.time_ns = self->now_real_ns;
        header.flags &= FLAG_LARGE;
        header.hops = 0;
        for (uint32_t slot = 1; slot < segment->at.slots; slot++) {
            struct lane *lane = &self->lane[slot];
            if (!bit_get(row->words, slot) || !lane->attached || has_it[slot])
                continue;
            if (lost_some[slot] && is_first) { /* with the same tail: what was spilled before it will not come */
                struct record gap = gap_record(header.row, header.row_generation, header.sequence - 1);
                gap.destination = lane->id;
                put(self, lane, &gap, NULL);
            }
            header.destination = lane->id;
            put(self, lane, &header, body);
        }
    }
    publish_touched(self, operation);
    for (uint64_t i = 0; i < op->count; i++) {
        if (op->sequence[i] == 0)
            continue;
        /* Of records passed over above too: whoever has got one already would take the next of that number for it. */
        self->shadow[op->row[i]].sequence = op->sequence[i];
        shared_store(&segment_row(segment, op->row[i])->sequence, op->sequence[i]);
    }
    up.head = op->end;
    ring_release(&up);
    struct ring_in *known = &self->lane[source].up; /* attached before the head went on */
    known->head = known->released = known->tail_seen = op->end;
}

void fanout_notify(struct router *self) {
    if (self->touched_count == 0)
        return;
    notify_fence();
    for (uint32_t i = 0; i < self->touched_count; i++) {
        struct lane *lane = &self->lane[self->touched[i]];
        lane->touched = false;
        if (notify_due(&lane->bell)) {
            notify_write(lane->bell.fd);
            shared_add(&self->control->count.wakeups, 1);
        }
    }
    self->touched_count = 0;
}
