/*
 * mutate [ROUNDS [SEED]]: malformed rings and records, by the million, under AddressSanitizer and UBSan.
 *
 * Four parts, each printing its count: one ring whose writer puts anything into headers and cursors; a whole fabric in
 * which worker 1 does so in its up-ring, its direct rings and its cursors, and asks for what it may not have, while 2
 * and 3 talk and must lose nothing; exported spills; and the header of a segment.  Status 1 when somebody else was
 * harmed, or when a run of 10,000,000 rounds does not reach them.
 */
#include <string.h>
#include <sys/mman.h>
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

static bool head_spoiled; /* worker 1's own, of the ring from 2: it would make an accusation of 2 believed */

/* What is asked of the router, about as it should be. */
static void ask_for_something(struct world *world) {
    static const char *const names[] = {"news", "n", "", "talk", "new", "a\nb", "\xff\xfe"};
    static const uint8_t flags[] = {0, 0, FLAG_PREFIX, FLAG_OPEN, FLAG_PREFIX | FLAG_OPEN, FLAG_LARGE, FLAG_FIRST};
    static const uint8_t types[] = {RECORD_JOIN, RECORD_JOIN, RECORD_LEAVE, RECORD_REPORT};
    struct endpoint *one = &world->worker[1].endpoint;
    struct record *place;
    uint8_t name[400];
    uint32_t length = (uint32_t)(any() % 4 == 0 ? any() % sizeof name : any() % 64);
    for (uint32_t i = 0; i < length; i++)
        name[i] = (uint8_t)(any() % 2 != 0 ? 'a' + any() % 3 : any());
    if (any() % 2 != 0) {
        const char *known = names[any() % (sizeof names / sizeof *names)];
        length = (uint32_t)strlen(known);
        memcpy(name, known, length);
    }
    if (ring_claim(&one->up, sizeof *place + length, &place) != RING_OK)
        return;
    uint32_t whom = (uint32_t)any() % WORLD_SLOTS;
    *place = (struct record){.length = (uint32_t)sizeof *place + length,
                             .type = types[any() % sizeof types],
                             .flags = flags[any() % sizeof flags],
                             .source = one->id,
                             .destination = WORKER_ID(whom, world->worker[whom].generation)};
    memcpy(place + 1, name, length);
    if (any() % 4 == 0)
        spoil_record(place);
    if (place->type == RECORD_REPORT && head_spoiled)
        place->destination = one->id;
    ring_publish(&one->up);
}

static void offend(struct world *world) {
    struct endpoint *one = &world->worker[1].endpoint;
    struct record *place;
    struct outgoing *peer;
    uint32_t body = (uint32_t)any() % 200;
    switch (any() % 12) {
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
        head_spoiled = true;
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
    case 5:
    case 6:
    case 7:
        ask_for_something(world);
        break;
    case 8: /* what it was answered, so that it can be answered again */
        world_drain(world, 1);
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
            head_spoiled = false;
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

/* ---- the header of a segment ---- */

static void touch_ends(const struct segment *segment) {
    volatile uint8_t sum = 0;
    const struct geometry *at = &segment->at;
    sum += segment->base[at->size - 1];
    sum += *(const uint8_t *)segment_worker(segment, at->slots - 1);
    sum += *(const uint8_t *)segment_row(segment, at->rows - 1);
    sum += segment_down_data(segment, at->slots - 1)[at->down_bytes - 1];
    sum += segment_direct_data(segment, at->slots - 1, at->slots - 1)[at->direct_bytes - 1];
}

static uint64_t headers(uint64_t rounds) {
    struct segment made, found;
    struct segment_config config = {4, CAPACITY, CAPACITY, CAPACITY, 16};
    const uint64_t key[2] = {1, 2};
    CHECK_EQ(segment_create(&made, &config, key, 1), SEGMENT_OK);
    struct segment_header *header = (struct segment_header *)made.base, right = *header;
    uint64_t refused = 0;
    for (uint64_t round = 0; round < rounds; round++) {
        *header = right;
        for (uint64_t i = any() % 4; i != 0; i--) {
            uint32_t *word = (uint32_t *)header + any() % (sizeof *header / sizeof *word);
            *word = (uint32_t)nasty(*word);
        }
        if (any() % 4 == 0) { /* sizes that belong together, but not to this file */
            struct segment_config other = {2 + (uint32_t)any() % 6, 4096u << any() % 3, 4096u << any() % 3,
                                           4096u << any() % 3, 16 + (uint32_t)any() % 64};
            (void)segment_geometry(&other, &header->geometry);
        }
        bool fits = header->magic == right.magic,
             same = header->major == right.major && header->layout_id == right.layout_id;
        bool whole = memcmp(&header->geometry, &right.geometry, sizeof right.geometry) == 0;
        enum segment_status status = segment_attach(&found, made.fd);
        if (status == SEGMENT_OK) {
            CHECK(fits && same && (whole || header->geometry.size == right.geometry.size));
            CHECK_EQ(found.at.size, right.geometry.size);
            touch_ends(&found);
            munmap(found.base, found.at.size);
        } else {
            CHECK_EQ(status, fits && !same ? SEGMENT_OTHER_LAYOUT : SEGMENT_NOT_OURS);
            CHECK(!fits || !same || !whole);
            CHECK(found.base == NULL);
            refused++;
        }
    }
    printf("  %" PRIu64 " of them refused\n", refused);
    CHECK(rounds == 0 || refused != 0);
    return rounds;
}

#define ROUNDS_ENOUGH 10000000u /* of a whole run */

int main(int argc, char **argv) {
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : ROUNDS_ENOUGH,
             seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    if (seed == 0)
        seed = router_clock_ns(CLOCK_REALTIME);
    state = seed | 1;
    printf("seed %" PRIu64 "\n", seed);
    uint64_t done = rings(rounds * 8 / 10), all = done;
    printf("FIGURES %" PRIu64 " rings\n", done);
    all += done = fabrics(rounds / 10);
    printf("FIGURES %" PRIu64 " offences in a fabric\n", done);
    all += done = spills(rounds / 10);
    printf("FIGURES %" PRIu64 " spills\n", done);
    all += done = headers(rounds / 50);
    printf("FIGURES %" PRIu64 " headers of a segment\n", done);
    if (rounds >= ROUNDS_ENOUGH && all < ROUNDS_ENOUGH) {
        printf("WRONG only %" PRIu64 " of %u malformed inputs\n", all, ROUNDS_ENOUGH);
        return 1;
    }
    return 0;
}
