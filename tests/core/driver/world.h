/*
 * A whole fabric in one process, for tests: one segment that everybody may write, a router and workers as structs.
 * Killing one means to forget its private memory.
 */
#ifndef WORLD_H
#define WORLD_H

#include "check.h"
#include "endpoint.h"
#include "fanout.h"
#include "fault.h"

#define WORLD_SLOTS 6u
#define WORLD_LOG 65536u

struct seen { /* one message as its receiver saw it */
    uint32_t row;
    uint32_t payload;
    uint64_t sequence;
};

struct world_worker {
    struct endpoint endpoint;
    uint64_t generation;
    bool alive;
    struct seen seen[WORLD_LOG];
    uint32_t seen_count;
    uint64_t heard;  /* number of the channel joined last: came, or told as lost */
    uint32_t untold; /* of it: holes in the numbers that nobody told of */
    uint32_t joined, gaps, here, gone, resync;
    uint64_t gap_sequence, joined_sequence, joined_status, joined_token;
    uint32_t joined_row, joined_row_generation;
};

struct world {
    struct segment segment;
    int eventfds[WORLD_SLOTS];
    struct router router;
    struct router_limits limits;
    struct world_worker worker[WORLD_SLOTS];
    uint64_t now_ns;
    bool routing;
};

extern uint32_t world_offender; /* a slot whose bodies may be anything; 0: none */

struct world *world_new(uint32_t ring_bytes, uint32_t rows);
/* Workers 1 to `count` have joined `name`; whoever joined is told the number it starts behind. */
struct world *world_joined(uint32_t ring_bytes, uint32_t count, const char *name);
void world_free(struct world *self);
void world_start_router(struct world *self);
/* As SIGKILL leaves it: its memory gone, the segment as it stands. */
void world_forget_router(struct world *self);
void world_turn(struct world *self);
/* Until nothing moves any more. */
void world_settle(struct world *self);
void world_start_worker(struct world *self, uint32_t slot);
void world_kill_worker(struct world *self, uint32_t slot); /* dead, its generation even, not buried */
void world_bury(struct world *self, uint32_t slot);
int world_join(struct world *self, uint32_t slot, const char *name, uint8_t flags, uint64_t token);
int world_leave(struct world *self, uint32_t slot, const char *name);
/* To the channel as a sender sees it now; RING_EMPTY when nobody listens. */
int world_send(struct world *self, uint32_t slot, const char *name, uint32_t payload, uint32_t size);
void world_drain(struct world *self, uint32_t slot);
uint32_t world_members(struct world *self, const char *name);
bool world_is_row(struct world *self, const char *name);
/* Every number once and in order, from `first` on, without a hole. */
void world_check_run(const struct world_worker *worker, uint64_t first, uint32_t count);

#endif
