/*
 * mutate [ROUNDS [SEED]]: malformed rings and records, by the million, under AddressSanitizer and UBSan.
 *
 * Three parts, each printing its count: one ring whose writer puts anything into headers and cursors; a whole fabric in
 * which worker 1 does so in its up-ring, its direct rings and its cursors, while 2 and 3 talk and must lose nothing;
 * and exported spills.  Status 1 when somebody else was harmed.
 */
#include <string.h>
#include <time.h>

#include "world.h"

#define CAPACITY 4096u

static uint64_t state;

void check_register(const char *name, check_body body) { (void)name, (void)body; }
_Noreturn void check_failed(const char *file, int line, const char *what, uint64_t left, uint64_t right) {
    printf("%s:%d: not so: %s (%" PRIu64 ", %" PRIu64 ")\n", file, line, what, left, right);
    fflush(stdout);
    _Exit(1);
}

static uint64_t any(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17; /* Marsaglia, "Xorshift RNGs", 2003 */
    return state;
}

/* A value near something that matters, or just anything. */
static uint64_t nasty(uint64_t right) {
    switch (any() % 8) {
    case 0:
        return right + any() % 64 - 32;
    case 1:
        return (uint64_t)1 << any() % 64;
    case 2:
        return ((uint64_t)1 << any() % 64) - 1;
    case 3:
        return right ^ (uint64_t)1 << any() % 64;
    case 4:
        return any() % 8192;
    case 5:
        return 0;
    case 6:
        return UINT64_MAX - any() % 64;
    default:
        return any();
    }
}

static void spoil_record(struct record *record) {
    switch (any() % 10) {
    case 0:
    case 1:
    case 2:
        record->length = (uint32_t)nasty(record->length);
        break;
    case 3:
        record->type = (uint8_t)(any() % 2 != 0 ? any() % 18 : any());
        break;
    case 4:
        record->flags = (uint8_t)any();
        break;
    case 5:
        record->name_length = (uint8_t)nasty(record->name_length);
        break;
    case 6:
        record->source = nasty(record->source);
        break;
    case 7:
        record->row = (uint32_t)nasty(record->row);
        break;
    case 8:
        record->row_generation = (uint32_t)nasty(record->row_generation);
        break;
    default:
        record->sequence = nasty(record->sequence);
    }
}

/* ---- one ring ---- */

static uint64_t rings(uint64_t rounds) {
    struct {
        struct producer_line producer;
        struct consumer_line consumer;
        uint8_t *data;
    } ring = {.data = aligned_alloc(CONTROL_LINE, CAPACITY)};
    volatile uint64_t sum = 0;
    for (uint64_t round = 0; round < rounds; round++) {
        uint64_t head = (any() % 512) * RECORD_ALIGN + (any() % 2 != 0 ? (1ull << 63) - 4096 : 0), tail = head;
        for (uint64_t i = any() % 4; i != 0; i--) {
            struct record *record = (struct record *)(void *)(ring.data + (tail & (CAPACITY - 1)));
            if (CAPACITY - (tail & (CAPACITY - 1)) < 512)
                break;
            *record = (struct record){.length = (uint32_t)(48 + any() % 200), .type = RECORD_ALERT};
            tail += record_span(record->length);
            if (any() % 2 != 0)
                spoil_record(record);
        }
        atomic_store(&ring.producer.tail, any() % 4 == 0 ? nasty(tail) : tail);
        struct ring_in in = {ring.data, CAPACITY, head, head, head, &ring.consumer, &ring.producer, false};
        struct record header;
        const uint8_t *body;
        for (int i = 0; i < 200 && ring_peek(&in, &header, &body) == RING_OK; i++) {
            CHECK(body + header.length - sizeof header <= ring.data + CAPACITY && header.length >= sizeof header);
            if (header.length > sizeof header)
                sum += body[0] + body[header.length - sizeof header - 1];
            ring_advance(&in, &header);
            CHECK(in.head <= in.tail_seen);
        }
    }
    free(ring.data);
    return rounds;
}

/* ---- a whole fabric ---- */

static void offend(struct world *world) {
    struct endpoint *one = &world->worker[1].endpoint;
    struct record *place;
    struct outgoing *peer;
    uint32_t body = (uint32_t)any() % 200;
    switch (any() % 8) {
    case 0: /* cursors that others read */
        atomic_store(&one->control->up.tail, nasty(one->up.tail));
        break;
    case 1:
        atomic_store(&one->control->down.head, nasty(one->down.head));
        break;
    case 2:
        atomic_store(&segment_direct_tail(&world->segment, 1, 2)->tail, nasty(one->out[2].ring.tail));
        break;
    case 3:
        atomic_store(&segment_direct_head(&world->segment, 2, 1)->head, nasty(one->in[2].ring.head));
        break;
    case 4:
        if ((peer = endpoint_peer(one, 2, world->worker[2].generation)) == NULL ||
            ring_claim(&peer->ring, sizeof *place + body, &place) != RING_OK)
            break;
        *place = (struct record){.length = (uint32_t)sizeof *place + body, .type = RECORD_ALERT, .source = one->id};
        place->destination = world->worker[2].endpoint.id;
        spoil_record(place);
        ring_publish(&peer->ring);
        break;
    default:
        if (ring_claim(&one->up, sizeof *place + body, &place) != RING_OK)
            break;
        *place = (struct record){.length = (uint32_t)sizeof *place + body, .type = RECORD_MESSAGE, .source = one->id};
        place->row = world->worker[2].joined_row;
        place->row_generation = world->worker[2].joined_row_generation;
        for (uint32_t i = 0; i < body; i++)
            ((uint8_t *)(place + 1))[i] = 0;
        spoil_record(place);
        ring_publish(&one->up);
    }
}

static bool is_done_for(struct world *world) {
    struct router_event event;
    bool offender = false;
    while (router_next_event(&world->router, &event)) {
        if (event.type == EVENT_QUARANTINE) {
            CHECK_EQ(event.slot, 1);
            offender = true;
        } else if (event.type == EVENT_PREFIX) {
            router_prefix(&world->router, event.slot, NULL, 0);
        }
    }
    return offender;
}

static uint64_t fabrics(uint64_t rounds) {
    struct world *world = world_new(CAPACITY, 16);
    for (uint32_t slot = 1; slot <= 3; slot++)
        world_start_worker(world, slot);
    world_settle(world);
    for (uint32_t slot = 2; slot <= 3; slot++)
        CHECK_EQ(world_join(world, slot, "news", 0, slot), RING_OK);
    world_settle(world);
    world_offender = 1;
    uint64_t replaced = 0, got = 0, number = 0;
    for (uint64_t round = 0; round < rounds; round++) {
        offend(world);
        if (round % 4 == 0) {
            number++;
            CHECK_EQ(world_send(world, 3, "news", (uint32_t)number, 16), RING_OK);
        }
        world_turn(world);
        struct record header;
        const uint8_t *body;
        struct endpoint *two = &world->worker[2].endpoint;
        while (endpoint_next_direct(two, 1, &header, &body) == RING_OK)
            ring_advance(&two->in[1].ring, &header);
        endpoint_release_direct(two, 1);
        world->worker[2].seen_count = world->worker[3].seen_count = 0;
        world_drain(world, 2);
        world_drain(world, 3);
        /* Both see the same; what 3 sent is there. */
        CHECK_EQ(world->worker[2].seen_count, world->worker[3].seen_count);
        bool found = round % 4 != 0;
        for (uint32_t i = 0; i < world->worker[2].seen_count; i++)
            found = found || world->worker[2].seen[i].payload == (uint32_t)number;
        CHECK(found);
        got += world->worker[2].seen_count;
        if (is_done_for(world)) {
            replaced++;
            world_kill_worker(world, 1);
            world_bury(world, 1);
            world_start_worker(world, 1);
            world_turn(world);
            for (uint32_t slot = 2; slot <= 3; slot++)
                world_drain(world, slot);
            for (int i = 0; i < 70 && !world->router.lane[1].attached; i++)
                world_turn(world);
            (void)is_done_for(world);
        }
    }
    printf("  %" PRIu64 " times replaced, %" PRIu64 " messages between the others\n", replaced, got);
    world_free(world);
    return rounds;
}

/* ---- what an upgrade hands over ---- */

static uint64_t spills(uint64_t rounds) {
    struct world *world = world_new(CAPACITY, 16);
    world_start_worker(world, 1);
    world_settle(world);
    for (uint64_t round = 0; round < rounds; round++) {
        struct {
            struct record record;
            uint8_t body[64];
        } data[4];
        memset(data, 0, sizeof data);
        for (int i = 0; i < 4; i++) {
            data[i].record =
                (struct record){.length = sizeof data[0], .type = RECORD_MESSAGE, .source = WORKER_ID(1, 1)};
            data[i].record.destination = world->worker[1].endpoint.id;
        }
        spoil_record(&data[any() % 4].record);
        if (any() % 4 == 0)
            data[any() % 4].record.destination = nasty(data[0].record.destination);
        (void)fanout_import(&world->router, 1, (const uint8_t *)data,
                            any() % 4 == 0 ? any() % sizeof data : sizeof data);
        if (round % 64 == 0) {
            world_settle(world);
            world->worker[1].seen_count = 0;
        }
        fanout_drop_spill(&world->router, 1);
    }
    world_free(world);
    return rounds;
}

int main(int argc, char **argv) {
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000000,
             seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    if (seed == 0)
        seed = router_clock_ns(CLOCK_REALTIME);
    state = seed | 1;
    printf("seed %" PRIu64 "\n", seed);
    uint64_t done = rings(rounds * 8 / 10);
    printf("FIGURES %" PRIu64 " rings\n", done);
    done = fabrics(rounds / 10);
    printf("FIGURES %" PRIu64 " offences in a fabric\n", done);
    done = spills(rounds / 10);
    printf("FIGURES %" PRIu64 " spills\n", done);
    return 0;
}
