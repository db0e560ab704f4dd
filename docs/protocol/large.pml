/*
 * large.pml - a message larger than a quarter of a ring: its body goes straight to each receiver in FRAGS fragments over
 * the direct ring, then a small record through the router gives it its place in the channel's order.  The sender is
 * killed between any two steps; the router drains what it had committed, then says GONE.
 *
 * Checked: whoever reads the record has the body whole; a body without a record is discarded at GONE; no fragment of it
 * is kept; a message whose record was committed is delivered.
 * Mutants: RECORD_FIRST (the record before the body), NO_DRAIN (the receiver trusts what it has drained so far),
 *          NO_DISCARD (a torn body is kept), GONE_FIRST (GONE before what the dead had committed),
 *          NO_DRAIN_AT_GONE (fragments of the dead still in the ring when the rest is discarded)
 */
#define FRAGS 2
#define MESSAGES 2
#define CAP 4
#define RECORD 10
#define GONE 20
byte direct[CAP]; byte d_tail = 0, d_head = 0;    /* fragment: message * 4 + index */
byte up[CAP]; byte u_tail = 0, u_head = 0;
byte down[6]; byte w_tail = 0, w_head = 0;
byte have[MESSAGES];                              /* fragments of each body that the receiver holds */
bool got[MESSAGES], committed[MESSAGES];
bool killed = 0, stopped = 0, gone_read = 0;

active proctype Sender()
{
    byte m = 0, f;
    {
        do
        :: m == MESSAGES -> break
        :: else ->
#ifdef RECORD_FIRST
            up[u_tail % CAP] = RECORD + m; atomic { u_tail = u_tail + 1; committed[m] = 1 };
#endif
            f = 0;
            do
            :: f == FRAGS -> break
            :: else ->
                (d_tail - d_head < CAP);
                direct[d_tail % CAP] = m * 4 + f;
                d_tail = d_tail + 1;
                f = f + 1
            od;
#ifndef RECORD_FIRST
            up[u_tail % CAP] = RECORD + m; atomic { u_tail = u_tail + 1; committed[m] = 1 };
#endif
            m = m + 1
        od
    } unless { killed };
    stopped = 1
}

active proctype Killer() { if :: killed = 1 :: skip fi }

active proctype Router()
{
    bool told = 0;
end:
    do
#ifdef GONE_FIRST
    :: stopped && !told -> down[w_tail] = GONE; w_tail = w_tail + 1; told = 1
#endif
    :: u_head != u_tail -> down[w_tail] = up[u_head % CAP]; w_tail = w_tail + 1; u_head = u_head + 1
#ifndef GONE_FIRST
    :: stopped && !told && u_head == u_tail -> down[w_tail] = GONE; w_tail = w_tail + 1; told = 1
#endif
    od
}

inline drain() {
    do
    :: d_head != d_tail ->
        m = direct[d_head % CAP] / 4;
        if
        :: direct[d_head % CAP] % 4 == have[m] -> have[m] = have[m] + 1
        :: else -> have[m] = 0; assert(false)
        fi;
        d_head = d_head + 1
    :: else -> break
    od
}

active proctype Receiver()
{
    byte m, what;
end:
    do
    :: d_head != d_tail -> drain()
    :: w_head != w_tail ->
        what = down[w_head]; w_head = w_head + 1;
        if
        :: what == GONE ->
#ifndef NO_DRAIN_AT_GONE
            drain();
#endif
#ifndef NO_DISCARD
            m = 0;
            do
            :: m < MESSAGES -> have[m] = 0; m = m + 1
            :: else -> break
            od;
#endif
            gone_read = 1
        :: else ->
#ifndef NO_DRAIN
            drain();
#endif
            m = what - RECORD;
            assert(have[m] == FRAGS);
            have[m] = 0; got[m] = 1
        fi
    od
}

active proctype Monitor()
{
    byte j;
end: timeout ->
    for (j : 0 .. MESSAGES - 1) { assert(!committed[j] || got[j]); assert(!gone_read || have[j] == 0) }
}
