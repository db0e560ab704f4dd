/*
 * Waking a slot that sleeps: one eventfd write per sleeper's epoch and caller, however many records.
 *
 * Only the sleeper writes its epoch word (odd: it sleeps or is about to); a caller remembers privately which epoch it
 * has answered.  A caller killed or stopped anywhere can therefore make nobody deaf to others
 * (docs/protocol/notify_kill.pml).
 */
#ifndef CHANNELS_NOTIFY_H
#define CHANNELS_NOTIFY_H

#include <stdbool.h>

#include "layout.h"

struct doorbell {
    const shared64 *epoch; /* the sleeper's word */
    uint64_t answered;     /* private */
    int fd;                /* the sleeper's eventfd */
};

/* Write the eventfd, whatever the epoch says.  Its counter cannot overflow in practice; EAGAIN means it is readable. */
void notify_write(int fd);
/* Make the eventfd unreadable. */
void notify_clear(int fd);

/* After a release store and notify_fence(): does the sleeper have to be woken, and is it us who must do it? */
static inline bool notify_due(struct doorbell *self) {
    uint64_t epoch = atomic_load_explicit(self->epoch, memory_order_relaxed);
    if (__builtin_expect((epoch & 1) != 0 && epoch != self->answered, 0)) {
        self->answered = epoch;
        return true;
    }
    return false;
}

/* Between "I have published" and "do you sleep?", and between "I sleep" and "have you published?".  Nothing weaker
 * suffices: with release and acquire alone both sides may read old values (models: NO_FENCE_P, NO_FENCE_C). */
static inline void notify_fence(void) { atomic_thread_fence(memory_order_seq_cst); }

static inline void notify_ring(struct doorbell *self) {
    notify_fence();
    if (notify_due(self))
        notify_write(self->fd);
}

/* Before looking at every ring for the last time.  Returns the odd epoch. */
static inline uint64_t notify_arm(shared64 *epoch) {
    uint64_t next = atomic_load_explicit(epoch, memory_order_relaxed);
    next += (next & 1) != 0 ? 2 : 1;
    atomic_store_explicit(epoch, next, memory_order_relaxed);
    notify_fence();
    return next;
}

static inline void notify_disarm(shared64 *epoch) {
    uint64_t now = atomic_load_explicit(epoch, memory_order_relaxed);
    if ((now & 1) != 0)
        atomic_store_explicit(epoch, now + 1, memory_order_relaxed);
}

#endif
