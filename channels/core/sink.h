/*
 * Sockets that frames are written to: one send per client and batch, without waiting; what a client does not take waits
 * for it, bounded.
 *
 * Knows no frames and no Python; who holds the bytes that wait is the caller's business.
 */
#ifndef CHANNELS_SINK_H
#define CHANNELS_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sink_piece {
    void *holder; /* keeps the bytes alive until the piece is out */
    const uint8_t *at;
    size_t left;
};

struct sink {
    int fd;
    bool gone; /* sending failed for good */
    struct sink_piece *pieces;
    uint32_t first, count, capacity; /* capacity: 0 or a power of two */
    size_t waiting;                  /* bytes in the pieces */
};

/* Bytes that wait behind the piece that is being written. */
static inline size_t sink_behind(const struct sink *self) {
    return self->count == 0 ? 0 : self->waiting - self->pieces[self->first].left;
}

struct sink_outcome {
    uint32_t index; /* of a sink that did not take everything at once */
    size_t sent;
};

/* Write to every sink that has nothing waiting; the others, and those that took less, are noted with what they took.
 * `outcomes` has room for `count`.  Returns how many were noted.  Safe without the GIL. */
uint32_t sink_fan(struct sink *const *sinks, uint32_t count, const uint8_t *data, size_t size,
                  struct sink_outcome *outcomes);
/* To one sink: bytes taken now; 0 when something waits already or it has gone. */
size_t sink_send(struct sink *self, const uint8_t *data, size_t size);
/* Let the rest wait.  False: no memory. */
bool sink_hold(struct sink *self, void *holder, const uint8_t *data, size_t size);
/* Send what waits.  `release` is called with the holder of each piece that is out.  True: nothing waits any more. */
bool sink_flush(struct sink *self, void (*release)(void *holder));
void sink_clear(struct sink *self, void (*release)(void *holder));

#endif
