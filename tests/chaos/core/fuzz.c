/*
 * libFuzzer targets, chosen when compiled by -DTARGET_RING, _RECORDS, _SPILL or _SEGMENT: bytes as a ring's content and
 * tail, as records that a worker commits, as an exported spill, in a segment's header.  Nothing may be read outside of
 * what is there.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "endpoint.h"
#include "fanout.h"

#define CAPACITY 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifdef TARGET_RING
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct producer_line producer;
    static struct consumer_line consumer;
    if (size < 16 || size > CAPACITY + 16)
        return 0;
    uint64_t head, tail;
    memcpy(&head, data, 8);
    memcpy(&tail, data + 8, 8);
    uint8_t *bytes = aligned_alloc(CONTROL_LINE, CAPACITY);
    memset(bytes, 0, CAPACITY);
    memcpy(bytes, data + 16, size - 16);
    head &= ~(uint64_t)(RECORD_ALIGN - 1);
    atomic_store(&producer.tail, head + tail);
    struct ring_in in = {bytes, CAPACITY, head, head, head, &consumer, &producer, false};
    struct record header;
    const uint8_t *body;
    volatile uint64_t sum = 0;
    while (ring_peek(&in, &header, &body) == RING_OK) {
        for (uint32_t i = 0; i < header.length - sizeof header; i++)
            sum += body[i];
        ring_advance(&in, &header);
    }
    if (!in.broken && in.head != in.tail_seen)
        abort();
    free(bytes);
    return 0;
}
#elif defined TARGET_SEGMENT
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct segment made;
    static struct segment_header right;
    struct segment_config config = {4, CAPACITY, CAPACITY, CAPACITY, 16};
    const uint64_t key[2] = {1, 2};
    if (made.base == NULL) {
        if (segment_create(&made, &config, key, 1) != SEGMENT_OK)
            abort();
        memcpy(&right, made.base, sizeof right);
    }
    if (size < 2)
        return 0;
    /* Over a right header, from a place that the bytes choose, so that it gets behind the first checks. */
    struct segment_header header = right;
    size_t at = (data[0] | (size_t)data[1] << 8) % sizeof header, length = size - 2;
    memcpy((uint8_t *)&header + at, data + 2, length < sizeof header - at ? length : sizeof header - at);
    memcpy(made.base, &header, sizeof header);
    struct segment found;
    if (segment_attach(&found, made.fd) != SEGMENT_OK)
        return 0;
    if (found.at.size != right.geometry.size || memcmp(&found.at, &header.geometry, sizeof found.at) != 0 ||
        header.magic != right.magic || header.major != right.major || header.layout_id != right.layout_id)
        abort();
    volatile uint8_t sum = found.base[found.at.size - 1];
    sum += *(const uint8_t *)segment_row(&found, found.at.rows - 1);
    sum += segment_direct_data(&found, found.at.slots - 1, found.at.slots - 1)[found.at.direct_bytes - 1];
    munmap(found.base, found.at.size);
    return 0;
}
#else
static struct segment segment;
static int eventfds[4];
static struct router router;
static struct endpoint one;
static uint64_t generation, now;

static void begin(uint32_t slot, struct endpoint *endpoint, uint64_t life) {
    endpoint_close(endpoint);
    atomic_store(&segment_supervisor(&segment)->slot[slot].generation, life);
    if (!endpoint_open(endpoint, &segment, eventfds, slot, life))
        abort();
}

static void turn(void) {
    bool more;
    now += 1000;
    router_turn(&router, now, now, &more);
}

static void prepare(void) {
    if (generation != 0)
        return;
    struct segment_config config = {4, CAPACITY, CAPACITY, CAPACITY, 16};
    const uint64_t key[2] = {1, 2};
    if (segment_create(&segment, &config, key, 1) != SEGMENT_OK)
        abort();
    for (int i = 0; i < 4; i++)
        eventfds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct router_limits limits = {256, 65536, 1 << 16, 1 << 17, 1000000000, 1000};
    if (!router_open(&router, &segment, eventfds, &limits, NULL, 1, 1))
        abort();
    generation = 1;
    begin(1, &one, generation);
    for (int i = 0; i < 70; i++)
        turn();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    prepare();
#ifdef TARGET_SPILL
    if (size > CAPACITY)
        return 0;
    uint8_t *copy = malloc(size + 1);
    memcpy(copy, data, size);
    for (size_t at = 0; at + sizeof(struct record) <= size; at += 64) /* so that it gets behind the first check */
        memcpy(copy + at + offsetof(struct record, destination), &one.id, sizeof one.id);
    (void)fanout_import(&router, 1, copy, size);
    free(copy);
    turn();
    fanout_drop_spill(&router, 1);
#else
    if (size < 4 || size > CAPACITY / 2)
        return 0;
    memcpy(one.up.data, data, size);
    for (size_t at = 0; at + sizeof(struct record) <= size; at += 64)
        memcpy(one.up.data + at + offsetof(struct record, source), &one.id, sizeof one.id);
    atomic_store(&one.control->up.tail, (size + RECORD_ALIGN - 1) & ~(size_t)(RECORD_ALIGN - 1));
    turn();
    struct router_event event;
    while (router_next_event(&router, &event))
        if (event.type == EVENT_PREFIX)
            router_prefix(&router, event.slot, NULL, 0);
    turn();
#endif
    struct record header;
    const uint8_t *body;
    while (endpoint_next_down(&one, &header, &body) == RING_OK)
        ring_advance(&one.down, &header);
    endpoint_release_down(&one);
#ifndef TARGET_SPILL
    /* Another life, with the up-ring at its beginning. */
    atomic_store(&segment_supervisor(&segment)->slot[1].generation, generation + 1);
    router_bury(&router, 1, generation);
    atomic_store(&segment_up_head(&segment, 1)->head, 0);
    generation += 2;
    begin(1, &one, generation);
    for (int i = 0; i < 70 && !router.lane[1].attached; i++)
        turn();
#endif
    return 0;
}
#endif
