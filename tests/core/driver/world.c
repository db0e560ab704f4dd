/* See world.h. */
#include "world.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct world *world_new(uint32_t ring_bytes, uint32_t rows) {
    struct world *self = calloc(1, sizeof *self);
    struct segment_config config = {WORLD_SLOTS, ring_bytes, ring_bytes, 4096, rows};
    const uint64_t key[2] = {1, 2};
    CHECK_EQ(segment_create(&self->segment, &config, key, 1), SEGMENT_OK);
    for (uint32_t i = 0; i < WORLD_SLOTS; i++)
        self->eventfds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    self->limits = (struct router_limits){.turn_records = 256,
                                          .turn_bytes = 256 * 1024,
                                          .spill_soft_bytes = 1 << 20,
                                          .spill_hard_bytes = 2 << 20,
                                          .spill_soft_ns = 1000000000,
                                          .row_idle_ns = 1000};
    self->now_ns = 1000000;
    world_start_router(self);
    return self;
}

void world_free(struct world *self) {
    if (self->routing)
        world_forget_router(self);
    for (uint32_t slot = 1; slot < WORLD_SLOTS; slot++)
        endpoint_close(&self->worker[slot].endpoint);
    for (uint32_t i = 0; i < WORLD_SLOTS; i++)
        close(self->eventfds[i]);
    close(self->segment.fd);
    segment_unmap(&self->segment);
    free(self);
}

void world_start_router(struct world *self) {
    self->routing = true;
    CHECK(router_open(&self->router, &self->segment, self->eventfds, &self->limits, NULL, self->now_ns, self->now_ns));
}

void world_forget_router(struct world *self) {
    self->routing = false;
    router_close(&self->router);
}

void world_turn(struct world *self) {
    bool more;
    self->now_ns += 1000;
    router_turn(&self->router, self->now_ns, self->now_ns, &more);
}

void world_settle(struct world *self) {
    for (int idle = 0; idle < 70;) { /* SCAN_EVERY turns and a few more */
        bool more;
        self->now_ns += 1000;
        idle = router_turn(&self->router, self->now_ns, self->now_ns, &more) != 0 || more ? 0 : idle + 1;
        for (uint32_t slot = 1; slot < WORLD_SLOTS; slot++)
            if (self->worker[slot].alive)
                world_drain(self, slot);
    }
}

void world_start_worker(struct world *self, uint32_t slot) {
    struct world_worker *worker = &self->worker[slot];
    endpoint_close(&worker->endpoint);
    worker->generation = worker->generation + 1 + (worker->generation & 1);
    atomic_store_explicit(&segment_supervisor(&self->segment)->slot[slot].generation, worker->generation,
                          memory_order_release);
    CHECK(endpoint_open(&worker->endpoint, &self->segment, self->eventfds, slot, worker->generation));
    worker->alive = true;
    worker->seen_count = worker->joined = worker->gaps = worker->here = worker->gone = worker->resync = 0;
}

void world_kill_worker(struct world *self, uint32_t slot) {
    struct world_worker *worker = &self->worker[slot];
    worker->alive = false;
    worker->generation++;
    atomic_store_explicit(&segment_supervisor(&self->segment)->slot[slot].generation, worker->generation,
                          memory_order_release);
}

void world_bury(struct world *self, uint32_t slot) {
    router_bury(&self->router, slot, self->worker[slot].generation - 1);
}

static int ask(struct world *self, uint32_t slot, const char *name, uint8_t type, uint8_t flags, uint64_t token) {
    struct record header = {.length = (uint32_t)(sizeof header + strlen(name)), .type = type, .flags = flags};
    header.sequence = token;
    return endpoint_send(&self->worker[slot].endpoint, &header, "", name);
}

int world_join(struct world *self, uint32_t slot, const char *name, uint8_t flags, uint64_t token) {
    return ask(self, slot, name, RECORD_JOIN, flags, token);
}

int world_leave(struct world *self, uint32_t slot, const char *name) {
    return ask(self, slot, name, RECORD_LEAVE, 0, 0);
}

static enum table_status look(struct world *self, const char *name, struct row_view *view) {
    const uint8_t *text = (const uint8_t *)name;
    size_t length = strlen(name);
    return table_look(&self->segment, text, length, table_hash(&self->segment, text, length, false), view);
}

int world_send(struct world *self, uint32_t slot, const char *name, uint32_t payload, uint32_t size) {
    static uint8_t body[1 << 20];
    struct row_view view;
    if (look(self, name, &view) != TABLE_OK || view.members == 0)
        return RING_EMPTY;
    memset(body, (int)payload, size);
    memcpy(body, &payload, size < sizeof payload ? size : sizeof payload);
    return endpoint_message(&self->worker[slot].endpoint, view.row, view.generation, body, size);
}

uint32_t world_offender;

static void take(struct world_worker *worker, const struct record *header, const uint8_t *body) {
    struct joined_payload joined;
    switch (header->type) {
    case RECORD_MESSAGE: {
        struct seen *seen = &worker->seen[worker->seen_count++ % WORLD_LOG];
        *seen = (struct seen){header->row, 0, header->sequence};
        uint32_t size = header->length - (uint32_t)sizeof *header;
        if (header->row == worker->joined_row) {
            worker->untold += header->sequence > worker->heard + 1;
            worker->heard = header->sequence;
        }
        memcpy(&seen->payload, body, size < 4 ? size : 4);
        for (uint32_t i = 4; i < size && WORKER_SLOT(header->source) != world_offender; i++)
            CHECK_EQ(body[i], (uint8_t)seen->payload);
        break;
    }
    case RECORD_JOINED:
        memcpy(&joined, body, sizeof joined);
        worker->joined++;
        worker->joined_token = joined.token;
        worker->joined_status = joined.status;
        worker->joined_sequence = worker->heard = header->sequence;
        worker->joined_row = header->row;
        worker->joined_row_generation = header->row_generation;
        break;
    case RECORD_GAP:
        worker->gaps++;
        if (header->row == worker->joined_row && header->sequence > worker->heard)
            worker->heard = header->sequence;
        worker->gap_sequence = header->sequence;
        break;
    case RECORD_HERE:
        worker->here++;
        endpoint_peer_here(&worker->endpoint, WORKER_SLOT(header->source));
        break;
    case RECORD_GONE:
        worker->gone++;
        endpoint_peer_gone(&worker->endpoint, WORKER_SLOT(header->source));
        break;
    case RECORD_RESYNC:
        worker->resync++;
        break;
    default:
        CHECK(!"a record that does not come down");
    }
}

void world_drain(struct world *self, uint32_t slot) {
    struct world_worker *worker = &self->worker[slot];
    struct record header;
    const uint8_t *body;
    int status;
    while ((status = endpoint_next_down(&worker->endpoint, &header, &body)) == RING_OK) {
        take(worker, &header, body);
        ring_advance(&worker->endpoint.down, &header);
    }
    CHECK_EQ(status, RING_EMPTY);
    endpoint_release_down(&worker->endpoint);
}

uint32_t world_members(struct world *self, const char *name) {
    struct row_view view;
    CHECK(look(self, name, &view) != TABLE_BUSY);
    return view.members;
}

bool world_is_row(struct world *self, const char *name) {
    struct row_view view;
    return look(self, name, &view) == TABLE_OK;
}

void world_check_run(const struct world_worker *worker, uint64_t first, uint32_t count) {
    CHECK_EQ(worker->seen_count, count);
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQ(worker->seen[i].sequence, first + i);
}

struct world *world_joined(uint32_t ring_bytes, uint32_t count, const char *name) {
    struct world *world = world_new(ring_bytes, 64);
    for (uint32_t slot = 1; slot <= count; slot++)
        world_start_worker(world, slot);
    world_settle(world);
    for (uint32_t slot = 1; slot <= count; slot++)
        CHECK_EQ(world_join(world, slot, name, 0, 100 + slot), RING_OK);
    world_settle(world);
    for (uint32_t slot = 1; slot <= count; slot++) {
        CHECK_EQ(world->worker[slot].joined, 1);
        CHECK_EQ(world->worker[slot].joined_token, 100 + slot);
        CHECK_EQ(world->worker[slot].joined_status, JOIN_OK);
    }
    CHECK_EQ(world_members(world, name), count);
    return world;
}
