/* A 64-byte record (header and 16 bytes of body) put, taken and, once in 16, notified: argv[1] times 16 of them. */
#include <stdio.h>
#include <stdlib.h>

#include "notify.h"
#include "ring.h"

#define CAPACITY 65536u
#define BODY 16u

static struct producer_line producer;
static struct consumer_line consumer;
static _Alignas(CONTROL_LINE) shared64 armed;

int main(int argc, char **argv) {
    static _Alignas(RECORD_ALIGN) uint8_t data[CAPACITY];
    struct ring_out out = {.data = data, .capacity = CAPACITY, .mine = &producer, .theirs = &consumer};
    struct ring_in in = {.data = data, .capacity = CAPACITY, .mine = &consumer, .theirs = &producer};
    struct doorbell bell = {.epoch = &armed, .fd = -1};
    uint64_t batches = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, sum = 0;
    uint8_t body[BODY] = {1}, copy[BODY];
    for (uint64_t batch = 0; batch < batches; batch++) {
        for (uint32_t i = 0; i < 16; i++) {
            struct record *place;
            if (ring_claim(&out, sizeof *place + BODY, &place) != RING_OK)
                return 1;
            *place = (struct record){.length = sizeof *place + BODY, .type = RECORD_MESSAGE, .sequence = batch};
            memcpy(place + 1, body, BODY);
            ring_publish(&out);
        }
        notify_ring(&bell);
        struct record header;
        const uint8_t *from;
        while (ring_peek(&in, &header, &from) == RING_OK) {
            memcpy(copy, from, BODY);
            sum += header.sequence + copy[0];
            ring_advance(&in, &header);
        }
        ring_release(&in);
    }
    printf("%llu\n", (unsigned long long)sum);
    return 0;
}
