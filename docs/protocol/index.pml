/*
 * index.pml - a reader looks a name up while the router removes another by moving entries up (open addressing without
 * graves), and is killed in the middle of it.
 *
 * Places 0..3 hold rows; the one looked for stands behind the one that is removed.  A reader that does not find it
 * compares index_version before and after: odd or changed, it looks again, at most TRIES times, then says BUSY.
 * Checked: a row that stands all the time is never said to be absent.
 * Mutants: NO_VERSION (the reader does not compare), LATE_ODD (the version moves after the entries),
 *          EARLY_EVEN (before them)
 */
#define PLACES 4
#define TRIES 2
byte place[PLACES];
byte version = 0;
bool killed = 0;

proctype Router()
{
    {
        byte rounds = 0;
        do
        :: rounds < 2 ->
#ifdef EARLY_EVEN
            version = version + 2;
#endif
#if !defined(EARLY_EVEN) && !defined(LATE_ODD)
            version = version + 1;
#endif
            place[0] = place[1];       /* row 1 is removed: row 2, and row 3 behind it, move up */
            place[1] = place[2];
            place[2] = 0;
#ifdef LATE_ODD
            version = version + 2;
#endif
#if !defined(EARLY_EVEN) && !defined(LATE_ODD)
            version = version + 1;
#endif
            /* it comes back at the end of the chain, and another removal moves all once more */
            place[2] = 1;
            rounds = rounds + 1
        :: else -> break
        od
    } unless { killed }
}

proctype Killer() { if :: killed = 1 :: skip fi }

proctype Reader()
{
    byte i, before, tries = 0, seen;
    bool found;
    do
    :: tries == TRIES -> break         /* BUSY: ask again */
    :: else ->
        before = version; found = 0; i = 0;
        do
        :: i == PLACES -> break
        :: else ->
            seen = place[i];
            if
            :: seen == 0 -> break
            :: seen == 3 -> found = 1; break
            :: else -> i = i + 1
            fi
        od;
        if
        :: found -> break
#ifdef NO_VERSION
        :: else -> assert(false)
#else
        :: !found && !(before & 1) && version == before -> assert(false)
        :: else -> tries = tries + 1
#endif
        fi
    od
}

init { atomic { place[0] = 1; place[1] = 2; place[2] = 3; run Router(); run Killer(); run Reader() } }
