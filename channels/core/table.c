/* The channel table.  See table.h. */
#include "table.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

/* An index entry: the upper half of the hash, then row + 1; so 0 is empty.  A removed entry leaves no trace: those
 * behind it move up (Knuth, The Art of Computer Programming 3, 6.4, algorithm R), or graves would fill the index. */
#define ENTRY_EMPTY 0ull
#define ENTRY(hash, row) (((hash)&0xffffffff00000000ull) | ((uint64_t)(row) + 1))
#define ENTRY_ROW(entry) ((uint32_t)(entry)-1)
#define ENTRY_MATCHES(entry, hash) (((entry) ^ (hash)) >> 32 == 0 && (entry) != ENTRY_EMPTY)

static uint64_t load(const shared64 *word) { return atomic_load_explicit(word, memory_order_relaxed); }
static void store(shared64 *word, uint64_t value) { atomic_store_explicit(word, value, memory_order_relaxed); }
static uint32_t load32(const shared32 *word) { return atomic_load_explicit(word, memory_order_relaxed); }
static void store32(shared32 *word, uint32_t value) { atomic_store_explicit(word, value, memory_order_relaxed); }

bool table_name_ok(const uint8_t *name, size_t length) {
    if (length == 0 || length > NAME_MAX_BYTES)
        return false;
    for (size_t i = 0; i < length;) {
        uint32_t point;
        size_t bytes = utf8_character(name + i, length - i, &point);
        if (bytes == 0 || point < 32 || (point >= 127 && point < 0xa0))
            return false;
        i += bytes;
    }
    return true;
}

/* SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), keyed per segment: nobody outside can
 * choose names that collide. */
#define ROTATE(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define SIP_ROUND                                                                                                      \
    do {                                                                                                               \
        v0 += v1, v1 = ROTATE(v1, 13), v1 ^= v0, v0 = ROTATE(v0, 32);                                                  \
        v2 += v3, v3 = ROTATE(v3, 16), v3 ^= v2;                                                                       \
        v0 += v3, v3 = ROTATE(v3, 21), v3 ^= v0;                                                                       \
        v2 += v1, v1 = ROTATE(v1, 17), v1 ^= v2, v2 = ROTATE(v2, 32);                                                  \
    } while (0)

uint64_t table_hash(const struct segment *segment, const uint8_t *name, size_t length, bool prefix) {
    uint64_t k0 = segment->hash_key[0] ^ (prefix ? 0x2a2a2a2a2a2a2a2aull : 0), k1 = segment->hash_key[1];
    uint64_t v0 = k0 ^ 0x736f6d6570736575ull, v1 = k1 ^ 0x646f72616e646f6dull;
    uint64_t v2 = k0 ^ 0x6c7967656e657261ull, v3 = k1 ^ 0x7465646279746573ull;
    size_t whole = length & ~(size_t)7;
    for (size_t i = 0; i < whole; i += 8) {
        uint64_t word;
        memcpy(&word, name + i, 8);
        v3 ^= word;
        SIP_ROUND;
        v0 ^= word;
    }
    uint64_t last = (uint64_t)length << 56;
    for (size_t i = whole; i < length; i++)
        last |= (uint64_t)name[i] << (8 * (i - whole));
    v3 ^= last;
    SIP_ROUND;
    v0 ^= last;
    v2 ^= 0xff;
    SIP_ROUND;
    SIP_ROUND;
    SIP_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

static uint32_t inline_name_max(const struct segment *segment) {
    return segment->at.row_stride - (uint32_t)offsetof(struct row, words) - 16 * segment->at.slot_words;
}

static uint8_t *name_place(const struct segment *segment, struct row *row, uint32_t flags, uint32_t place) {
    if ((flags & ROW_LONG_NAME) != 0)
        return segment_long_name(segment, place);
    return (uint8_t *)(row->words + 2 * segment->at.slot_words);
}

/* ---- readers ---- */

static enum table_status read_name(const struct segment *segment, uint32_t row_number, uint64_t *version, uint8_t *name,
                                   uint32_t *length, uint32_t *flags, uint64_t *epoch) {
    struct row *row = segment_row(segment, row_number);
    for (int i = 0; i < TABLE_TRIES; i++) {
        *version = atomic_load_explicit(&row->version, memory_order_acquire);
        if ((*version & 1) != 0)
            continue;
        *flags = load32(&row->flags);
        *length = load32(&row->name_length);
        *epoch = load(&row->epoch);
        uint32_t place = load32(&row->long_name);
        bool sane = *length <= ((*flags & ROW_LONG_NAME) != 0 ? NAME_MAX_BYTES : inline_name_max(segment)) &&
                    place < segment->at.long_names;
        if (sane) {
            const uint8_t *from = name_place(segment, row, *flags, place);
            for (uint32_t k = 0; k < *length; k += 8) /* names are padded to whole words */
                *(uint64_t *)(void *)(name + k) = load((const shared64 *)(const void *)(from + k));
        }
        atomic_thread_fence(memory_order_acquire);
        if (load(&row->version) == *version)
            return sane && (*flags & ROW_USED) != 0 ? TABLE_OK : TABLE_ABSENT;
    }
    return TABLE_BUSY;
}

static enum table_status probe(const struct segment *segment, const uint8_t *name, size_t length, uint64_t hash,
                               bool prefix, uint32_t *row_number, uint64_t *version) {
    const shared64 *index = segment_index(segment);
    uint32_t mask = segment->at.index_entries - 1;
    for (uint32_t i = 0, at = (uint32_t)hash & mask; i <= mask; i++, at = (at + 1) & mask) {
        uint64_t entry = atomic_load_explicit(&index[at], memory_order_acquire);
        if (entry == ENTRY_EMPTY)
            return TABLE_ABSENT;
        if (!ENTRY_MATCHES(entry, hash) || ENTRY_ROW(entry) >= segment->at.rows)
            continue;
        _Alignas(8) uint8_t found[LONG_NAME_STRIDE];
        uint32_t found_length, flags;
        uint64_t epoch;
        enum table_status status = read_name(segment, ENTRY_ROW(entry), version, found, &found_length, &flags, &epoch);
        if (status == TABLE_BUSY)
            return status;
        if (status == TABLE_OK && found_length == length && ((flags & ROW_PREFIX) != 0) == prefix &&
            memcmp(found, name, length) == 0) {
            *row_number = ENTRY_ROW(entry);
            return TABLE_OK;
        }
    }
    return TABLE_ABSENT;
}

/* TABLE_ABSENT is certain: no entry moved meanwhile, and a name is entered before its join is answered. */
static enum table_status look(const struct segment *segment, const uint8_t *name, size_t length, uint64_t hash,
                              bool prefix, uint32_t *row_number, uint64_t *version) {
    const shared64 *moves = &segment_router(segment)->index_version;
    for (int i = 0; i < TABLE_TRIES; i++) {
        uint64_t before = atomic_load_explicit(moves, memory_order_acquire);
        enum table_status status = probe(segment, name, length, hash, prefix, row_number, version);
        if (status != TABLE_ABSENT)
            return status;
        atomic_thread_fence(memory_order_acquire);
        if ((before & 1) == 0 && load(moves) == before)
            return TABLE_ABSENT;
    }
    return TABLE_BUSY;
}

static bool prefix_length_used(const struct router_control *router, size_t length) {
    return (load(&router->prefix_lengths[length / 64]) >> (length % 64) & 1) != 0;
}

static bool any_prefix(const struct router_control *router) {
    return (load(&router->prefix_lengths[0]) | load(&router->prefix_lengths[1]) | load(&router->prefix_lengths[2]) |
            load(&router->prefix_lengths[3])) != 0;
}

enum table_status table_look(const struct segment *segment, const uint8_t *name, size_t length, uint64_t hash,
                             struct row_view *view) {
    uint64_t version;
    for (int i = 0; i < TABLE_TRIES; i++) {
        enum table_status status = look(segment, name, length, hash, false, &view->row, &version);
        if (status == TABLE_BUSY)
            return status;
        if (status == TABLE_ABSENT)
            break;
        if (table_members(segment, view->row, row_generation(version), view) == TABLE_OK)
            return TABLE_OK;
    }
    uint64_t bitmap[SLOT_WORDS_MAX] = {0};
    const struct router_control *router = segment_router(segment);
    view->row = ROW_NONE;
    view->members = 0;
    view->exact = false;
    view->generation = 0;
    if (!any_prefix(router))
        return TABLE_ABSENT;
    for (size_t part = 0; part <= length; part++) {
        if (!prefix_length_used(router, part))
            continue;
        uint32_t row_number;
        enum table_status status =
            look(segment, name, part, table_hash(segment, name, part, true), true, &row_number, &version);
        if (status == TABLE_BUSY)
            return status;
        if (status == TABLE_OK)
            for (uint32_t i = 0; i < segment->at.slot_words; i++)
                bitmap[i] |= load(&segment_row(segment, row_number)->words[i]);
    }
    for (uint32_t i = 0; i < segment->at.slot_words; i++)
        view->members += (uint32_t)__builtin_popcountll(bitmap[i]);
    return TABLE_ABSENT;
}

enum table_status table_bitmap(const struct segment *segment, uint32_t row_number, uint32_t generation,
                               uint64_t *bitmap) {
    struct row *row = segment_row(segment, row_number);
    uint64_t version = atomic_load_explicit(&row->version, memory_order_acquire);
    memset(bitmap, 0, SLOT_WORDS_MAX * sizeof *bitmap);
    for (uint32_t i = 0; i < segment->at.slot_words; i++)
        bitmap[i] = load(&row->words[i]);
    atomic_thread_fence(memory_order_acquire);
    bool same = (version & 1) == 0 && row_generation(version) == generation && load(&row->version) == version;
    return same ? TABLE_OK : TABLE_ABSENT;
}

enum table_status table_name(const struct segment *segment, uint32_t row_number, uint32_t generation, uint8_t *name,
                             uint32_t *length, uint64_t *epoch) {
    uint64_t version;
    uint32_t flags;
    if (row_number >= segment->at.rows)
        return TABLE_ABSENT;
    enum table_status status = read_name(segment, row_number, &version, name, length, &flags, epoch);
    if (status == TABLE_OK && row_generation(version) != generation)
        status = TABLE_ABSENT;
    return status;
}

/* ---- the router ---- */

const uint8_t *table_row_name(const struct table *self, uint32_t row_number, uint32_t *length) {
    struct row *row = segment_row(self->segment, row_number);
    *length = load32(&row->name_length);
    return name_place(self->segment, row, load32(&row->flags), load32(&row->long_name));
}

bool table_is_empty(const struct table *self, uint32_t row_number) {
    struct row *row = segment_row(self->segment, row_number);
    uint64_t any = 0;
    for (uint32_t i = 0; i < 2 * self->segment->at.slot_words; i++)
        any |= load(&row->words[i]);
    return any == 0;
}

static uint32_t find(const struct table *self, const uint8_t *name, size_t length, uint64_t hash, bool prefix,
                     uint32_t *entry_at) {
    const struct segment *segment = self->segment;
    const shared64 *index = segment_index(segment);
    uint32_t mask = segment->at.index_entries - 1;
    for (uint32_t i = 0, at = (uint32_t)hash & mask; i <= mask; i++, at = (at + 1) & mask) {
        uint64_t entry = load(&index[at]);
        if (entry == ENTRY_EMPTY)
            break;
        if (!ENTRY_MATCHES(entry, hash))
            continue;
        uint32_t found_length;
        const uint8_t *found = table_row_name(self, ENTRY_ROW(entry), &found_length);
        if (found_length == length && table_is_prefix(self, ENTRY_ROW(entry)) == prefix &&
            memcmp(found, name, length) == 0) {
            *entry_at = at;
            return ENTRY_ROW(entry);
        }
    }
    return ROW_NONE;
}

uint32_t table_find(const struct table *self, const uint8_t *name, size_t length, bool prefix) {
    uint32_t at;
    return find(self, name, length, table_hash(self->segment, name, length, prefix), prefix, &at);
}

static void index_insert(const struct table *self, uint64_t hash, uint32_t row_number) {
    shared64 *index = segment_index(self->segment);
    uint32_t mask = self->segment->at.index_entries - 1;
    uint32_t at = (uint32_t)hash & mask;
    while (load(&index[at]) != ENTRY_EMPTY)
        at = (at + 1) & mask;
    atomic_store_explicit(&index[at], ENTRY(hash, row_number), memory_order_release);
}

/* Until index_settle, who does not find a name looks again. */
static void index_unsettle(const struct table *self) {
    shared64 *version = &segment_router(self->segment)->index_version;
    store(version, load(version) | 1);
    atomic_thread_fence(memory_order_release);
}

static void index_settle(const struct table *self) {
    shared64 *version = &segment_router(self->segment)->index_version;
    atomic_store_explicit(version, load(version) + 1, memory_order_release);
}

static void index_remove(const struct table *self, uint32_t gap) {
    shared64 *index = segment_index(self->segment);
    uint32_t mask = self->segment->at.index_entries - 1;
    index_unsettle(self);
    for (uint32_t at = (gap + 1) & mask;; at = (at + 1) & mask) {
        uint64_t entry = load(&index[at]);
        if (entry == ENTRY_EMPTY)
            break;
        uint32_t home = (uint32_t)load(&segment_row(self->segment, ENTRY_ROW(entry))->hash) & mask;
        if (((at - home) & mask) < ((at - gap) & mask))
            continue; /* its search begins behind the gap */
        store(&index[gap], entry);
        gap = at;
    }
    store(&index[gap], ENTRY_EMPTY);
    index_settle(self);
}

static void index_rebuild(const struct table *self) {
    shared64 *index = segment_index(self->segment);
    index_unsettle(self);
    for (uint32_t at = 0; at < self->segment->at.index_entries; at++)
        store(&index[at], ENTRY_EMPTY);
    for (uint32_t i = 0; i < self->segment->at.rows; i++)
        if (table_is_used(self, i))
            index_insert(self, load(&segment_row(self->segment, i)->hash), i);
    index_settle(self);
}

/* Does every used row have its entry, and every entry its row? */
static bool index_is_whole(const struct table *self) {
    const struct segment *segment = self->segment;
    const shared64 *index = segment_index(segment);
    if ((load(&segment_router(segment)->index_version) & 1) != 0)
        return false;
    uint32_t entries = 0;
    for (uint32_t at = 0; at < segment->at.index_entries; at++) {
        uint64_t entry = load(&index[at]);
        if (entry == ENTRY_EMPTY)
            continue;
        entries++;
        if (ENTRY_ROW(entry) >= segment->at.rows || !table_is_used(self, ENTRY_ROW(entry)) ||
            !ENTRY_MATCHES(entry, load(&segment_row(segment, ENTRY_ROW(entry))->hash)))
            return false;
    }
    return entries == self->used;
}

static void publish_prefix_length(const struct table *self, size_t length) {
    shared64 *word = &segment_router(self->segment)->prefix_lengths[length / 64];
    uint64_t bit = 1ull << (length % 64);
    store(word, self->prefixes[length] != 0 ? load(word) | bit : load(word) & ~bit);
}

static void inherit_prefixes(const struct table *self, struct row *row, const uint8_t *name, size_t length) {
    for (size_t part = 0; part <= length; part++) {
        if (self->prefixes[part] == 0)
            continue;
        uint32_t prefix = table_find(self, name, part, true);
        if (prefix != ROW_NONE)
            for (uint32_t i = 0; i < self->segment->at.slot_words; i++)
                store(&row->words[i], load(&row->words[i]) | load(&segment_row(self->segment, prefix)->words[i]));
    }
}

bool table_lacks_long(const struct table *self, size_t length) {
    return length > inline_name_max(self->segment) && self->free_long_count == 0;
}

enum table_status table_make(struct table *self, const uint8_t *name, size_t length, bool prefix, uint64_t epoch,
                             uint32_t *made) {
    const struct segment *segment = self->segment;
    bool is_long = length > inline_name_max(segment);
    if (self->free_count == 0 || table_lacks_long(self, length))
        return TABLE_FULL;
    uint32_t row_number = self->free_rows[--self->free_count];
    struct row *row = segment_row(segment, row_number);
    uint64_t hash = table_hash(segment, name, length, prefix);
    uint64_t version = load(&row->version) | 1;
    store(&row->version, version); /* odd: readers keep out */
    atomic_thread_fence(memory_order_release);
    store(&row->hash, hash);
    store(&row->sequence, 0);
    store(&row->epoch, epoch);
    store32(&row->name_length, (uint32_t)length);
    uint32_t flags = (prefix ? ROW_PREFIX : 0) | (is_long ? ROW_LONG_NAME : 0);
    uint32_t place = is_long ? self->free_long[--self->free_long_count] : 0;
    store32(&row->long_name, place);
    uint8_t *to = name_place(segment, row, flags, place);
    for (size_t k = 0; k < length; k += 8) {
        uint64_t word = 0;
        memcpy(&word, name + k, length - k < 8 ? length - k : 8);
        store((shared64 *)(void *)(to + k), word);
    }
    for (uint32_t i = 0; i < 2 * segment->at.slot_words; i++)
        store(&row->words[i], 0);
    if (!prefix)
        inherit_prefixes(self, row, name, length);
    store32(&row->flags, flags | ROW_USED);
    atomic_store_explicit(&row->version, version + 1, memory_order_release);
    index_insert(self, hash, row_number);
    self->used++;
    if (prefix && self->prefixes[length]++ == 0)
        publish_prefix_length(self, length);
    *made = row_number;
    return TABLE_OK;
}

void table_free(struct table *self, uint32_t row_number) {
    struct row *row = segment_row(self->segment, row_number);
    uint32_t length, at;
    const uint8_t *name = table_row_name(self, row_number, &length);
    uint32_t flags = load32(&row->flags);
    if (find(self, name, length, load(&row->hash), (flags & ROW_PREFIX) != 0, &at) == row_number)
        index_remove(self, at);
    uint64_t version = load(&row->version) | 1;
    store(&row->version, version);
    atomic_thread_fence(memory_order_release);
    store32(&row->flags, 0);
    for (uint32_t i = 0; i < 2 * self->segment->at.slot_words; i++)
        store(&row->words[i], 0);
    atomic_store_explicit(&row->version, version + 1, memory_order_release);
    self->free_rows[self->free_count++] = row_number;
    if ((flags & ROW_LONG_NAME) != 0)
        self->free_long[self->free_long_count++] = load32(&row->long_name);
    self->used--;
    if ((flags & ROW_PREFIX) != 0 && --self->prefixes[length] == 0)
        publish_prefix_length(self, length);
}

enum table_status table_open(struct table *self, const struct segment *segment) {
    memset(self, 0, sizeof *self);
    self->segment = segment;
    self->free_rows = calloc(segment->at.rows, sizeof *self->free_rows);
    self->free_long = calloc(segment->at.long_names, sizeof *self->free_long);
    uint8_t *long_taken = calloc(segment->at.long_names, 1);
    if (self->free_rows == NULL || self->free_long == NULL || long_taken == NULL) {
        free(long_taken);
        table_close(self);
        return TABLE_FULL;
    }
    /* Rows first: what was odd when the predecessor died is whole enough (made: not yet used; freed: no longer). */
    for (uint32_t i = segment->at.rows; i-- > 0;) {
        struct row *row = segment_row(segment, i);
        uint64_t version = load(&row->version);
        uint32_t flags = load32(&row->flags);
        if ((version & 1) != 0) {
            store32(&row->flags, flags & ~(uint32_t)ROW_USED);
            flags = 0;
            atomic_store_explicit(&row->version, version + 1, memory_order_release);
        }
        if ((flags & ROW_USED) == 0) {
            self->free_rows[self->free_count++] = i;
            continue;
        }
        self->used++;
        if ((flags & ROW_LONG_NAME) != 0)
            long_taken[load32(&row->long_name)] = 1;
        if ((flags & ROW_PREFIX) != 0)
            self->prefixes[load32(&row->name_length)]++;
    }
    for (uint32_t i = segment->at.long_names; i-- > 0;)
        if (!long_taken[i])
            self->free_long[self->free_long_count++] = i;
    free(long_taken);
    if (!index_is_whole(self))
        index_rebuild(self);
    for (size_t length = 0; length <= NAME_MAX_BYTES; length++)
        publish_prefix_length(self, length);
    return TABLE_OK;
}

void table_close(struct table *self) {
    free(self->free_rows);
    free(self->free_long);
    self->free_rows = self->free_long = NULL;
}
