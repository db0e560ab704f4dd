/* What the processes of storm.c share: notes in a mapping of the test's own, and a few steps. */
#ifndef STORM_H
#define STORM_H

#include <stdbool.h>
#include <stdint.h>

#include "endpoint.h"
#include "router.h"

#define WORKERS 4u
#define SLOTS (WORKERS + 1)
#define LIVES 65536u
#define CHANNELS 2u
#define LATE_MS 1000  /* a sleeper looks whether it should have been woken */
#define MOMENT_MS 500 /* for a caller that is between showing and calling */

struct storm_notes { /* of the test, not of the fabric: each word has one writer, but `first_failure` */
    _Atomic uint64_t acknowledged[SLOTS][LIVES][CHANNELS];
    _Atomic uint64_t deliveries[SLOTS], alerts[SLOTS], late[SLOTS], sleeps[SLOTS], gaps[SLOTS];
    _Atomic uint64_t bury_slot, bury_generation, buried; /* supervisor, supervisor, router */
    _Atomic uint64_t routers;                            /* supervisor: killed, or about to be */
    _Atomic uint64_t joined[SLOTS];                      /* the generation that is in every channel */
    _Atomic uint64_t calm;                               /* supervisor: number of the calm; 0 in the storm */
    _Atomic uint64_t token_for;                          /* supervisor gives, that slot takes */
    _Atomic uint64_t last_calm, laid_down; /* supervisor: whoever holds it keeps it; the holder: it is kept */
    _Atomic uint64_t passes[SLOTS];
    _Atomic uint64_t failures;
    char first_failure[256];
};

extern struct storm_notes *notes;
extern struct segment segment;
extern int eventfds[SLOTS];

void fail(const char *what, uint64_t left, uint64_t right);
uint64_t random_next(uint64_t *state);
/* It has armed.  Counts when it should have been called in a calm, and was not: `missed` looks whether it should. */
void sleep_until_called(uint32_t slot, int patience_ms, bool (*missed)(void *), void *about);

/* The life of one worker, to its SIGKILL. */
_Noreturn void run_worker(uint32_t slot, uint64_t generation, uint64_t seed);

#endif
