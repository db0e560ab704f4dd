/* The core behind plain functions, for ctypes: one ring, and the whole fabric of driver/world.h. */
#include <string.h>

#include "world.h"

_Noreturn void check_failed(const char *file, int line, const char *what, uint64_t left, uint64_t right) {
    fprintf(stderr, "%s:%d: not so: %s (%" PRIu64 ", %" PRIu64 ")\n", file, line, what, left, right);
    abort();
}

/* ---- one ring ---- */

struct model_ring {
    struct producer_line producer;
    struct consumer_line consumer;
    struct ring_out out;
    struct ring_in in;
    uint8_t data[];
};

struct model_ring *model_ring_new(uint64_t capacity, uint64_t start) {
    struct model_ring *self =
        aligned_alloc(CONTROL_LINE, (sizeof *self + capacity + CONTROL_LINE - 1) & ~(CONTROL_LINE - 1ull));
    memset(self, 0xa5, sizeof *self + capacity);
    atomic_init(&self->producer.tail, start);
    atomic_init(&self->consumer.head, start);
    self->out = (struct ring_out){self->data, capacity, start, start, start, &self->producer, &self->consumer, false};
    self->in = (struct ring_in){self->data, capacity, start, start, start, &self->consumer, &self->producer, false};
    return self;
}
void model_ring_free(struct model_ring *self) { free(self); }
int model_ring_put(struct model_ring *self, uint64_t size, uint32_t mark) {
    struct record *place;
    int status = ring_claim(&self->out, sizeof *place + size, &place);
    if (status != RING_OK)
        return status;
    *place = (struct record){.length = (uint32_t)(sizeof *place + size), .type = RECORD_ALERT, .sequence = mark};
    memset(place + 1, (int)mark, size);
    return status;
}
void model_ring_publish(struct model_ring *self) { ring_publish(&self->out); }
void model_ring_rollback(struct model_ring *self) { ring_rollback(&self->out); }
void model_ring_release(struct model_ring *self) { ring_release(&self->in); }
int model_ring_get(struct model_ring *self, uint64_t *size, uint64_t *mark) {
    struct record header;
    const uint8_t *body;
    int status = ring_peek(&self->in, &header, &body);
    if (status != RING_OK)
        return status;
    *size = header.length - sizeof header;
    *mark = header.sequence;
    for (uint64_t i = 0; i < *size; i++)
        if (body[i] != (uint8_t)*mark)
            return 100;
    ring_advance(&self->in, &header);
    return status;
}

/* ---- the fabric ---- */

uint32_t model_seen(struct world *world, uint32_t slot, uint32_t *rows, uint64_t *sequences, uint32_t *payloads) {
    struct world_worker *worker = &world->worker[slot];
    uint32_t count = worker->seen_count;
    for (uint32_t i = 0; i < count; i++) {
        rows[i] = worker->seen[i].row;
        sequences[i] = worker->seen[i].sequence;
        payloads[i] = worker->seen[i].payload;
    }
    worker->seen_count = 0;
    return count;
}
uint32_t model_gaps(struct world *world, uint32_t slot) { return world->worker[slot].gaps; }
uint32_t model_rows_used(struct world *world) { return world->router.table.used; }
int model_row(struct world *world, const char *name) {
    return (int)table_find(&world->router.table, (const uint8_t *)name, strlen(name), false);
}
/* A turn in which the router dies before its `store`th store, and its successor; 0: it lived. */
int model_turn_to_death(struct world *world, uint64_t store) {
    if (!DIES_BEFORE_STORE(store, world_turn(world)))
        return 0;
    world_forget_router(world);
    world_start_router(world);
    return 1;
}
/* The same in the burial. */
int model_bury_to_death(struct world *world, uint32_t slot, uint64_t store) {
    if (!DIES_BEFORE_STORE(store, world_bury(world, slot)))
        return 0;
    world_forget_router(world);
    world_start_router(world);
    world_bury(world, slot);
    return 1;
}
/* Turns without anybody reading. */
void model_turns(struct world *world, uint32_t count) {
    while (count-- != 0)
        world_turn(world);
}
