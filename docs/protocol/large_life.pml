/*
 * large_life.pml - whom a large message was meant for, when a slot changes hands while it is under way.
 *
 * The sender looks who listens and in which life, sends the body to that life, and only then, through the router, the
 * record with one bit a slot.  Between any two steps the listener may die and another life may take its slot, attach and
 * join, so that its bit stands in a record that was never meant for it.  The record carries the time at which the sender
 * began, before it looked; a life that attached later knows by it.
 *
 * Checked: no life is told that it missed what was not meant for it; a body that went to a life that reads the record is
 * delivered, whatever the times say; what a call that began after it had joined lost on the way is told.
 * Mutants: NO_TIME (the bit alone decides), LATE_TIME (the time is taken after the look),
 *          TIME_FIRST (the time decides before the body is looked for)
 */
byte clock = 1;
byte life = 1;             /* of whoever holds the slot; 0: nobody */
bool joined = 1;           /* its bit in the channel's bitmap */
byte attached = 1, came = 1; /* when the present life attached; when it joined */
byte body = 0;             /* the life that the body was put into the ring for */
bool lost = 0;             /* that life was given up: the body was not put there */
byte called, began, listed = 0;
bool marked = 0, record = 0, judged = 0;

active proctype Sender()
{
    called = clock;        /* what its caller can tell from outside: the call began here or later */
#ifndef LATE_TIME
    began = clock;
#endif
    atomic { marked = joined; listed = life };
#ifdef LATE_TIME
    began = clock;
#endif
    if
    :: marked -> if :: body = listed :: lost = 1 fi
    :: else
    fi;
    record = 1
}

active proctype Slot()
{
    if
    :: skip
    :: atomic { life = 0; joined = 0; clock = clock + 1 };
       atomic { life = 2; attached = clock; clock = clock + 1 };
       atomic { joined = 1; came = clock; clock = clock + 1 }
    fi;
    atomic {
        record && joined && !judged ->
        judged = 1;
        if
#ifndef TIME_FIRST
        :: body == life ->
            skip            /* delivered */
#endif
        :: else ->
#ifdef NO_TIME
            if
            :: marked -> assert(listed == life)        /* told: it must have been meant */
            :: else
            fi
#else
            if
            :: marked && began >= attached -> assert(listed == life)
            :: else ->
                assert(body != life);               /* nothing that came is passed over */
                assert(!(lost && listed == life && called >= came)) /* nor what was meant for it and is lost */
            fi
#endif
        fi
    }
}
