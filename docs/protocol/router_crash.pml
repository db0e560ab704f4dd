/*
 * router_crash.pml - the router is killed between any two stores and a successor adopts the shared state.  Every record
 * of the up-ring must reach every destination exactly once and in order.
 *
 * As the code does it: records are staged behind the tails of their destinations in batches of 1 to B, a batch is one
 * operation of the log; the record at JOINPOS is a JOIN of destination 1, done outside of the log and answered, and may
 * be done twice; each router greets every destination when it begins.
 *
 * Numbers are given from the router's own memory (`last`), which each router begins with the row's; `chseq` is the row's.
 *
 * Shared, written by the router only:
 *   up_head                    consumer cursor of the up-ring
 *   cur, op[2]                 current operation: op[cur & 1] describes number cur; the other is free to be prepared;
 *                              `cur` is moved by one release store (the only commit point)
 *   W[d], T[d]                 per destination: number of the operation last begun there, and the ring's tail before it
 *   tail[d], ring              the down-rings
 *   member[d]                     membership
 * Rule: destination d has got operation v  <=>  W[d] == v && tail[d] != T[d].
 *
 * Mutants: HEAD_FIRST (up_head before the fan-out), NO_OPLOG (the successor simply starts again at up_head), W_ONLY
 * (W[d] == v trusted without comparing the tail), W_AFTER (W after the tail), T_AFTER_W (W before T), ONE_BUFFER (op
 * overwritten in place, cur moved first), GREET_FIRST (the successor greets before it has finished the operation),
 * KEEP_HEAD (the successor finishes it and goes on from the head that it had read before), JOIN_HEAD_FIRST (up_head
 * before the JOIN is done), SEQUENCE_LATE (the channel's number stored after the operation is closed),
 * RECOVER_SEQUENCE_LATE (the same by the successor), KEEP_NUMBER (the successor finishes the operation and numbers on
 * from what it had read before).
 * NUMBERS_FIRST, the successor stores the number before the tails, is as right: who dies between the two leaves the
 * operation open, and the next one takes its numbers from the log again.
 */
#ifndef N
#define N 4
#endif
#define D 2
#ifndef B
#define B 2
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#define JOINPOS 1
#define GREETING 100
#define ANSWER 101
byte up_tail = 0, up_head = 0;
byte tail[D];
typedef DR { byte id[16]; byte seq[16] };
DR ring[D];
byte cur = 0;                       /* operation number, 0 = none yet */
typedef Op { byte begin; byte end; byte seq };
Op op[2];                           /* seq: the number before its first record */
byte W[D], T[D];
bool member[D];
byte chseq = 0;                     /* last sequence number given, as stored in the row */
byte deaths = 0; bool kill = 0, dead = 0, finished = 0;

inline control(d, what, number) {   /* visible at once, outside of the log */
    ring[d].id[tail[d]] = what; ring[d].seq[tail[d]] = number;
    tail[d] = tail[d] + 1
}

inline greet() {
    d = 0;
    do
    :: d < D -> control(d, GREETING, 0); d = d + 1
    :: else -> break
    od
}

/* Publish the batch begin..end, numbered from sq + 1, as operation v. */
inline publish(v) {
    d = 0;
    do
    :: d < D ->
        if
        :: !member[d] || has[d] -> skip
        :: else ->
            /* staged behind the tail: nobody looks there */
            d_step {
                i = 0;
                do
                :: i < end - begin -> ring[d].id[tail[d] + i] = begin + i + 1; ring[d].seq[tail[d] + i] = sq + i + 1; i = i + 1
                :: else -> break
                od
            }
#ifdef W_AFTER
            T[d] = tail[d]; tail[d] = tail[d] + (end - begin); W[d] = v
#else
#ifdef T_AFTER_W
            W[d] = v; T[d] = tail[d];
#else
            T[d] = tail[d]; W[d] = v;
#endif
            tail[d] = tail[d] + (end - begin)
#endif
        fi;
        d = d + 1
    :: else -> break
    od
}

proctype Router()
{
    byte d, i, v, begin, end, sq, head, last;
    bool has[D];
    {
        head = up_head; last = chseq;
#ifdef GREET_FIRST
        greet();
#endif
        /* ---------- recovery ---------- */
        v = cur;
#ifndef NO_OPLOG
        if
        :: v != 0 && op[v & 1].begin == up_head ->        /* was not finished */
            begin = op[v & 1].begin; end = op[v & 1].end; sq = op[v & 1].seq;
            d = 0;
            do
            :: d < D ->
#ifdef W_ONLY
                has[d] = (W[d] == v);
#else
                has[d] = (W[d] == v && tail[d] != T[d]);
#endif
                d = d + 1
            :: else -> break
            od;
#ifdef NUMBERS_FIRST
            chseq = sq + (end - begin);
#endif
            publish(v);
#if !defined(NUMBERS_FIRST) && !defined(RECOVER_SEQUENCE_LATE)
            chseq = sq + (end - begin);
#endif
            up_head = end;
#ifdef RECOVER_SEQUENCE_LATE
            chseq = sq + (end - begin);
#endif
#ifndef KEEP_HEAD
            head = end;
#endif
#ifndef KEEP_NUMBER
            last = sq + (end - begin)
#endif
        :: else
        fi;
#endif
        has[0] = 0; has[1] = 0;
#ifndef GREET_FIRST
        greet();
#endif
        /* ---------- normal work ---------- */
        do
        :: head == N -> break
        :: head == JOINPOS && head < up_tail ->
#ifdef JOIN_HEAD_FIRST
            up_head = head + 1;
#endif
            member[1] = 1;
            control(1, ANSWER, last);
            head = head + 1;
            up_head = head
        :: head != JOINPOS && head < N && head < up_tail ->
            begin = head; end = head + 1;
            if
            :: B > 1 && end < N && end != JOINPOS && end < up_tail -> end = end + 1
            :: skip
            fi;
            sq = last;
            last = sq + (end - begin);
#ifdef HEAD_FIRST
            up_head = end;
#endif
            v = cur + 1;
#ifdef ONE_BUFFER
            cur = v;
            op[0].begin = begin; op[1].begin = begin; op[0].seq = sq; op[1].seq = sq; op[0].end = end; op[1].end = end;
#else
            op[v & 1].begin = begin; op[v & 1].end = end; op[v & 1].seq = sq;
            cur = v;                                       /* release: the operation is open */
#endif
            publish(v);
#ifdef SEQUENCE_LATE
            up_head = end; head = end;
            chseq = sq + (end - begin)
#else
            chseq = sq + (end - begin);
            head = end;
#ifndef HEAD_FIRST
            up_head = end                                  /* release: the operation is closed */
#endif
#endif
        od;
        finished = 1
    } unless { kill };
    if
    :: kill -> atomic { kill = 0; dead = 1 }
    :: else
    fi
}

active proctype Killer()
{
    do
    :: atomic { deaths < DEATHS && !kill && !dead && !finished -> kill = 1; deaths = deaths + 1 }
    :: break
    od
}

active proctype Publisher()
{
    do
    :: up_tail < N -> up_tail = up_tail + 1
    :: else -> break
    od
}

active proctype Supervisor()
{
    atomic { member[0] = 1; run Router() };
    do
    :: dead -> atomic { dead = 0; run Router() }
    :: finished -> break
    od;
    /* exactly once, in order, contiguous numbers; destination 1 from its first answer on */
    byte d, i, want, joined;
    d_step {
        d = 0;
        do
        :: d < D ->
            want = 0; joined = (d == 0); i = 0;
            do
            :: i < tail[d] ->
                if
                :: ring[d].id[i] == ANSWER && !joined -> joined = 1; want = ring[d].seq[i]
                :: ring[d].id[i] < GREETING ->
                    assert(joined);
                    want = want + 1;
                    assert(ring[d].seq[i] == want);
                    assert(ring[d].id[i] == want + (want > JOINPOS))
                :: else
                fi;
                i = i + 1
            :: else -> break
            od;
            assert(joined && want == N - 1);
            d = d + 1
        :: else -> break
        od
    }
}
