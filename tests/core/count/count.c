/* count PATH TIMES: goes a path of the core so many times; callgrind counts its instructions. */
#include <stdio.h>
#include <string.h>

#include "world.h"

void check_register(const char *name, check_body body) { (void)name, (void)body; }
_Noreturn void check_failed(const char *file, int line, const char *what, uint64_t left, uint64_t right) {
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    exit(1);
}

/* One 64-byte record put, taken and, one time in 16, notified. */
static void record(uint64_t times) {
    static _Alignas(CONTROL_LINE) uint8_t data[1 << 16];
    static struct producer_line producer;
    static struct consumer_line consumer;
    static shared64 armed;
    struct ring_out out = {.data = data, .capacity = sizeof data, .mine = &producer, .theirs = &consumer};
    struct ring_in in = {.data = data, .capacity = sizeof data, .mine = &consumer, .theirs = &producer};
    struct doorbell bell = {.epoch = &armed, .fd = -1};
    struct record header, *place;
    const uint8_t *body;
    uint8_t payload[16] = {0};
    for (uint64_t i = 0; i < times; i++) {
        if (ring_claim(&out, sizeof *place + sizeof payload, &place) != RING_OK)
            exit(2);
        *place = (struct record){.length = sizeof *place + sizeof payload, .type = RECORD_ALERT, .sequence = i};
        memcpy(place + 1, payload, sizeof payload);
        ring_publish(&out);
        if (i % 16 == 0)
            notify_ring(&bell);
        if (ring_peek(&in, &header, &body) != RING_OK)
            exit(3);
        memcpy(payload, body, sizeof payload);
        ring_advance(&in, &header);
        ring_release(&in);
    }
}

static void through(uint64_t times, uint32_t receivers) {
    struct world *world = world_new(1 << 16, 16);
    for (uint32_t slot = 1; slot <= 5; slot++)
        world_start_worker(world, slot);
    world_settle(world);
    for (uint32_t slot = 1; slot <= receivers; slot++)
        if (world_join(world, slot, "news", 0, slot) != RING_OK)
            exit(2);
    world_settle(world);
    struct world_worker *sender = &world->worker[1];
    for (uint64_t i = 0; i < times; i++) {
        if (endpoint_message(&sender->endpoint, sender->joined_row, sender->joined_row_generation, "0123456789", 10) !=
            RING_OK)
            exit(3);
        if (i % 32 == 31) {
            world_turn(world);
            struct record header;
            const uint8_t *body;
            for (uint32_t slot = 1; slot <= receivers; slot++) {
                struct endpoint *endpoint = &world->worker[slot].endpoint;
                while (endpoint_next_down(endpoint, &header, &body) == RING_OK)
                    ring_advance(&endpoint->down, &header);
                endpoint_release_down(endpoint);
            }
        }
    }
    world_free(world);
}

static void look(uint64_t times) {
    struct world *world = world_new(4096, 1024);
    world_start_worker(world, 1);
    world_settle(world);
    if (world_join(world, 1, "a channel's name", 0, 1) != RING_OK)
        exit(2);
    world_settle(world);
    const uint8_t *name = (const uint8_t *)"a channel's name";
    for (uint64_t i = 0; i < times; i++) {
        struct row_view view;
        if (table_look(&world->segment, name, 16, table_hash(&world->segment, name, 16, false), &view) != TABLE_OK)
            exit(3);
    }
    world_free(world);
}

int main(int argc, char **argv) {
    uint64_t times = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (times == 0)
        return 1;
    if (strcmp(argv[1], "record") == 0)
        record(times);
    else if (strcmp(argv[1], "one") == 0)
        through(times, 1);
    else if (strcmp(argv[1], "four") == 0)
        through(times, 4);
    else if (strcmp(argv[1], "look") == 0)
        look(times);
    else
        return 1;
    return 0;
}
