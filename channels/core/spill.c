/* A list of chunks; a record never straddles two.  See spill.h. */
#include "spill.h"

#include <stdlib.h>
#include <string.h>

#include "ring.h"

#define CHUNK_BYTES (256u * 1024u - 64u)

struct spill_chunk {
    struct spill_chunk *next;
    size_t begin, end, capacity;
    _Alignas(RECORD_ALIGN) uint8_t data[];
};

bool spill_put(struct spill *self, const struct record *header, const void *body) {
    size_t need = record_span(header->length);
    struct spill_chunk *chunk = self->last;
    if (chunk == NULL || chunk->capacity - chunk->end < need) {
        size_t capacity = need > CHUNK_BYTES ? need : CHUNK_BYTES;
        chunk = malloc(sizeof *chunk + capacity);
        if (chunk == NULL)
            return false;
        chunk->next = NULL;
        chunk->begin = chunk->end = 0;
        chunk->capacity = capacity;
        if (self->last != NULL)
            self->last->next = chunk;
        else
            self->first = chunk;
        self->last = chunk;
    }
    memcpy(chunk->data + chunk->end, header, sizeof *header);
    if (header->length > sizeof *header)
        memcpy(chunk->data + chunk->end + sizeof *header, body, header->length - sizeof *header);
    chunk->end += need;
    self->bytes += need;
    return true;
}

const struct record *spill_peek(const struct spill *self) {
    return self->first == NULL ? NULL : (const struct record *)(const void *)(self->first->data + self->first->begin);
}

void spill_pop(struct spill *self) {
    struct spill_chunk *chunk = self->first;
    size_t span = record_span(spill_peek(self)->length);
    chunk->begin += span;
    self->bytes -= span;
    if (chunk->begin < chunk->end)
        return;
    self->first = chunk->next;
    if (self->first == NULL)
        self->last = NULL;
    free(chunk);
}

void spill_note_loss(struct spill *self, uint32_t row, uint32_t row_generation, uint64_t sequence) {
    for (uint32_t i = 0; i < self->note_count; i++) {
        struct spill_note *note = &self->notes[i];
        if (note->row == row) {
            note->row_generation = row_generation;
            note->sequence = sequence;
            return;
        }
    }
    if (self->note_count == SPILL_NOTES) {
        self->notes_overflowed = true;
        return;
    }
    self->notes[self->note_count++] = (struct spill_note){row, row_generation, sequence};
}

void spill_copy(const struct spill *self, uint8_t *to) {
    for (const struct spill_chunk *chunk = self->first; chunk != NULL; chunk = chunk->next) {
        memcpy(to, chunk->data + chunk->begin, chunk->end - chunk->begin);
        to += chunk->end - chunk->begin;
    }
}

void spill_clear(struct spill *self) {
    while (self->first != NULL) {
        struct spill_chunk *next = self->first->next;
        free(self->first);
        self->first = next;
    }
    memset(self, 0, sizeof *self);
}
