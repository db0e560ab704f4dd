/*
 * Who listens to what: what workers ask for that is not a message.  Each of it may be done twice.
 *
 * Internal to the router.
 */
#ifndef CHANNELS_MEMBERSHIP_H
#define CHANNELS_MEMBERSHIP_H

#include "router.h"

/* One record that is not a message.  False: it stays first in its ring, an event says why. */
bool membership_control(struct router *self, uint32_t slot, const struct record *header, const uint8_t *body);
/* The row counts as made by this slot, if by nobody yet. */
void membership_made_by(struct router *self, uint32_t slot, uint32_t row);
/* The slot is in this row no more; an empty row is freed. */
void membership_end(struct router *self, uint32_t slot, uint32_t row);
/* Frees rows that a predecessor had emptied and not freed, or made for a JOIN that its death left undone. */
void membership_sweep(struct router *self);

/* For a policy to answer; see router_next_event. */
void router_tell(struct router *self, uint32_t type, uint32_t slot, uint64_t generation, uint64_t detail);
/* Nothing more is read of this worker, by this router or the next. */
void router_quarantine(struct router *self, uint32_t slot, enum quarantine_reason reason);

#endif
