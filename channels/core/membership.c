/* Rows made and freed, slots that enter and leave them.  See membership.h. */
#include "membership.h"

#include <stdlib.h>
#include <string.h>

#include "fanout.h"

#define EVICT_LOOKS 4096u
#define EVICT_WALKS 8u /* through all that the router has not read yet, for one row */
#define ACCUSE_NS 60000000000ull
#define RESERVE 8u /* one in so many rows is kept for workers that have made less than their share (H43) */

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

void membership_made_by(struct router *self, uint32_t slot, uint32_t row) {
    if (self->shadow[row].maker != 0)
        return;
    self->shadow[row].maker = (uint16_t)slot;
    self->shadow[row].maker_generation = (uint16_t)self->lane[slot].generation;
    self->conduct[slot].made++;
}

static void free_row(struct router *self, uint32_t row) {
    struct row_shadow *shadow = &self->shadow[row];
    struct lane *maker = &self->lane[shadow->maker];
    if (shadow->maker != 0 && shadow->maker_generation == (uint16_t)maker->generation &&
        self->conduct[shadow->maker].made != 0)
        self->conduct[shadow->maker].made--;
    shadow->maker = 0;
    table_free(&self->table, row);
    note_row(self, row);
    shared_store(&self->control->count.rows_used, self->table.used);
}

static void free_if_empty(struct router *self, uint32_t row) {
    if (table_is_used(&self->table, row) && table_is_empty(&self->table, row))
        free_row(self, row);
}

/* Rows that a predecessor had emptied and not freed, or made for a JOIN that its death left undone. */
void membership_sweep(struct router *self) {
    self->sweep_due = false;
    for (uint32_t row = 0; row < self->segment->at.rows; row++)
        free_if_empty(self, row);
}

/* Does a message to this row stand in a ring that the router has not read so far, be it one that it has not seen yet?
 */
static bool is_on_its_way(const struct router *self, uint32_t row) {
    for (uint32_t slot = 1; slot < self->segment->at.slots; slot++) {
        if (!self->lane[slot].attached &&
            !segment_attached(self->segment, slot, segment_generation(self->segment, slot)))
            continue;
        struct ring_in up = self->lane[slot].attached ? self->lane[slot].up : router_up(self->segment, slot);
        struct record header;
        const uint8_t *body;
        while (ring_peek(&up, &header, &body) == RING_OK) {
            if (header.type == RECORD_MESSAGE && header.row == row)
                return true;
            ring_advance(&up, &header);
        }
    }
    return false;
}

/* A row that only prefixes keep, unused for so long that no worker can still be in the middle of a send to it. */
static bool evict(struct router *self, bool only_long) {
    uint32_t walks = 0;
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
            (only_long && !table_is_long(&self->table, number)) ||
            self->shadow[number].used_ns + self->limits.row_idle_ns > oldest ||
            fanout_row_is_awaited(self, number)) /* whoever gets the message still has to look its name up */
            continue;
        uint64_t exact = 0;
        for (uint32_t w = 0; w < words; w++)
            exact |= shared_load(&segment_row(self->segment, number)->words[words + w]);
        if (exact != 0 || walks == EVICT_WALKS)
            continue;
        walks++;
        if (is_on_its_way(self, number))
            continue;
        for (uint32_t slot = 1; slot < self->segment->at.slots; slot++)
            if (self->lane[slot].member != NULL)
                self->lane[slot].member[number / 64] &= ~(1ull << (number % 64));
        free_row(self, number);
        return true;
    }
    return false;
}

/* While there is plenty everyone may have all; of the last rows nobody may have more than its share. */
static bool may_make(const struct router *self, uint32_t slot) {
    uint32_t rows = self->segment->at.rows;
    return self->table.used < rows - rows / RESERVE || self->conduct[slot].made < rows / self->live_count;
}

static uint32_t make_row(struct router *self, uint32_t slot, const uint8_t *name, size_t length, bool prefix) {
    uint64_t epoch = shared_load(&self->control->last_epoch) + 1;
    if (epoch < self->now_real_ns / 1000)
        epoch = self->now_real_ns / 1000;
    shared_store(&self->control->last_epoch, epoch);
    uint32_t row = ROW_NONE;
    if ((!may_make(self, slot) || table_make(&self->table, name, length, prefix, epoch, &row) != TABLE_OK) &&
        (!evict(self, table_lacks_long(&self->table, length)) ||
         table_make(&self->table, name, length, prefix, epoch, &row) != TABLE_OK)) {
        shared_add(&self->control->count.table_full, 1);
        return ROW_NONE;
    }
    self->shadow[row] = (struct row_shadow){.used_ns = self->now_ns};
    membership_made_by(self, slot, row);
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

void membership_end(struct router *self, uint32_t slot, uint32_t number) {
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
        if ((asked->flags & FLAG_PREFIX) != 0) /* rows with a later epoch were made after it was let in */
            joined.sequence = shared_load(&self->control->last_epoch);
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
        row = make_row(self, slot, name, length, false);
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
    membership_end(self, slot, row);
}

/* Is the ring that a worker complains of broken indeed, and by the generation that is there now?  The word of one
 * worker alone must not end another. */
static bool direct_is_broken(const struct router *self, uint32_t from, uint32_t to) {
    struct producer_line *tail = segment_direct_tail(self->segment, from, to);
    struct ring_in ring = {.data = segment_direct_data(self->segment, from, to),
                           .capacity = self->segment->at.direct_bytes,
                           .theirs = tail};
    ring.head = atomic_load_explicit(&segment_direct_head(self->segment, from, to)->head, memory_order_acquire);
    if (ring.head % RECORD_ALIGN != 0)
        return false;
    /* It is attached, so it has said where it began; what stands before that place is a predecessor's. */
    uint64_t now = self->lane[from].generation;
    if (atomic_load_explicit(&tail->start_generation, memory_order_acquire) != now)
        return true;
    uint64_t begun = shared_load(&tail->start);
    if (begun % RECORD_ALIGN != 0)
        return true;
    if (ring.head < begun)
        ring.head = begun;
    ring.tail_seen = ring.head;
    struct record header;
    const uint8_t *body;
    enum ring_status status = ring_peek(&ring, &header, &body);
    if (status != RING_OK)
        return status == RING_BROKEN;
    return header.source != WORKER_ID(from, now) || header.type < RECORD_ALERT || header.type >= RECORD_TYPES ||
           (header.flags & ~FLAGS_KNOWN) != 0 || header.name_length > header.length - sizeof header;
}

static void report(struct router *self, uint32_t slot, worker_id accused) {
    uint32_t other = WORKER_SLOT(accused);
    if (other == ROUTER_SLOT || other >= self->segment->at.slots || other == slot || !self->lane[other].attached ||
        self->lane[other].generation != WORKER_GENERATION(accused))
        return;
    if (self->lane[other].quarantined || !direct_is_broken(self, other, slot))
        return;
    /* Where its reader stands is the reader's word: in the middle of a record anyone finds garbage.  So accusations of
     * one slot are believed, which may well do it again in its next life, and of another one when a while has passed:
     * who lies ends few, and who has met two that wrote garbage is not ended for it. */
    struct conduct *accuser = &self->conduct[slot];
    if (accuser->accused != 0 && accuser->accused != other && self->now_ns - accuser->accused_ns < ACCUSE_NS)
        return;
    accuser->accused = other;
    accuser->accused_ns = self->now_ns;
    router_quarantine(self, other, BROKEN_DIRECT);
}

/* One record that is not a message.  False: it stays first in its ring, an event says why. */
bool membership_control(struct router *self, uint32_t slot, const struct record *header, const uint8_t *body) {
    struct lane *lane = &self->lane[slot];
    uint8_t name[NAME_MAX_BYTES + 1];
    size_t length = header->length - sizeof *header;
    if (header->type == RECORD_REPORT) {
        report(self, slot, header->destination);
        return true;
    }
    if ((header->type != RECORD_JOIN && header->type != RECORD_LEAVE) || length > NAME_MAX_BYTES) {
        router_quarantine(self, slot, BROKEN_RECORD);
        return false;
    }
    if (lane->dying)
        return true;
    if ((header->flags & FLAG_PREFIX) != 0) {
        lane->pending_prefix = true;
        router_tell(self, EVENT_PREFIX, slot, lane->generation, 0);
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
            membership_end(self, slot, row);
        for (uint32_t i = 0; i < count; i++)
            if (row_matches(self, rows[i], name, length) &&
                !bit_get(row_exact(self->segment, segment_row(self->segment, rows[i])), slot) &&
                !has_prefix(self, slot, rows[i]))
                membership_end(self, slot, rows[i]);
    } else if (length != 0 && !table_name_ok(name, length)) {
        answer(self, slot, &header, JOIN_BAD_NAME, ROW_NONE);
    } else {
        if (row == ROW_NONE)
            row = make_row(self, slot, name, length, true);
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
