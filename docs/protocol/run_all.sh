#!/bin/bash
# Runs every model and every mutant of it, two at a time; status 1 unless each is as wanted: the protocol without an
# error in its full state space, each mutant with a counter-example.  Needs spin (6.5) and gcc; about 3.5 GB of memory.
# With words as arguments, only the models whose name contains one of them; with --quick first, without the four
# largest state spaces, which take four of five minutes and most of the memory.
cd "$(dirname "$0")" || exit 1
if ! command -v spin >/dev/null; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "spin is not installed; on Debian and Ubuntu, as root: apt-get install spin" >&2
        exit 1
    fi
    apt-get update -qq && apt-get install -y -qq spin >/dev/null || exit 1
fi
list=$(mktemp)
trap 'rm -f "$list"' EXIT

one() { # WANT MODEL DEFINES [CC FLAGS [PAN FLAGS]]
    local wanted
    for wanted in "${only[@]}"; do
        case $2 in *"$wanted"*) printf '%s\0' "$1" "$2.pml" "$3" "${4:--DSAFETY}" "${5:--m2000000}" >>"$list" && return ;; esac
    done
}
mutants() { # MODEL COMMON NAME...
    local model=$1 common=$2 name
    shift 2
    for name in "$@"; do one BUG "$model" "${common:+$common }-D$name" "${cc:--DSAFETY}"; done
}
large=one
if [ "${1:-}" = --quick ]; then
    large=true
    shift
fi
only=("$@")
[ $# -gt 0 ] || only=("")

# The largest first: they decide how long it takes.
cc="-DSAFETY -DNOCLAIM"
$large OK ring_notify "-DCAP=2 -DN=5 -DSPUR=2" "$cc"
$large OK slot_lifecycle "-DKU=1 -DKD=1 -DKA=1 -DKB=1"
$large OK notify_kill ""
one OK ring_notify "-DCAP=1" "$cc"
for defines in "" "-DCAP=3 -DN=5" "-DCAP=2 -DN=6 -DSPUR=0"; do one OK ring_notify "$defines" "$cc"; done
mutants ring_notify "" NO_RECHECK NO_FENCE_C NO_FENCE_P RELAXED_TAIL TAIL_FIRST LATE_CLEAR MEMO_BOOL NO_SPACE_RECHECK \
    NO_FENCE_SPACE_P HEAD_EARLY SPECULATIVE_READ
mutants ring_notify "-DCAP=1" NO_FENCE_SPACE_C
one OK ring_notify "-DN=3 -DSPUR=0" " " "-a -f -m2000000" # liveness: both end, under weak fairness
one BUG ring_notify "-DN=3 -DSPUR=0 -DNO_RECHECK" " " "-a -f -m2000000"
unset cc

for defines in "-DCASEPOCH" "-DSTOP" "-DSTOP -DCASEPOCH" "-DXCHG"; do one OK notify_kill "$defines"; done
mutants notify_kill "" STORE0 NO_KICK "XCHG -DNO_KICK" "STOP -DXCHG" "STOP -DSTORE0"

up="-DKU=2 -DKD=1 -DKA=0 -DKB=0" down="-DKU=0 -DKD=0 -DKA=2 -DKB=2" uneven="-DKU=0 -DKD=0 -DKA=1 -DKB=3"
back="-DKU=0 -DKD=0 -DKA=0 -DKB=2"
for defines in "$up" "$up -DLIVES=3" "$down" "$uneven" "$back" "$up -DNO_SKIP" "$back -DNO_SKIP"; do one OK slot_lifecycle "$defines"; done
mutants slot_lifecycle "$down" NO_GEN_CHECK RESET_RINGS NO_KICK EPOCH_REUSE CLAIM_FIRST NO_GONE_CHECK
mutants slot_lifecycle "$up" NO_DRAIN CLAIM_FIRST "NO_SKIP -DNO_GEN_CHECK" SEND_BEFORE_ATTACHED
mutants slot_lifecycle "$back" SAME_GEN SEND_BEFORE_ATTACHED ATTACHED_FIRST
mutants slot_lifecycle "$uneven" NO_GONE_CHECK

for defines in "" "-DB=1" "-DN=5" "-DDEATHS=3" "-DNUMBERS_FIRST"; do one OK router_crash "$defines"; done
mutants router_crash "" HEAD_FIRST NO_OPLOG W_ONLY W_AFTER T_AFTER_W ONE_BUFFER GREET_FIRST KEEP_HEAD JOIN_HEAD_FIRST \
    SEQUENCE_LATE RECOVER_SEQUENCE_LATE KEEP_NUMBER

one OK handover ""
$large OK handover "-DDEATHS=3"
mutants handover "" RECLAIM_STORE ACTIVE_BEFORE_CAS OFFER_BEFORE_PARK NO_RECLAIM NO_TAKE TAKE_WITHOUT_END ROUTER_UNTOLD \
    TAKE_UNKNOWN PREPARED_GOES HEED_THE_DEAD

for defines in "" "-DFRAGS=3" "-DNO_RESTART"; do one OK fragments "$defines"; done
mutants fragments "" NO_DISCARD "KEY_SLOT_ONLY -DNO_DISCARD -DNO_RESTART" KEY_RING DISCARD_SLOT NO_DRAIN_AT_GONE SKIP_AT_GONE

one OK large ""
mutants large "" RECORD_FIRST NO_DRAIN NO_DISCARD GONE_FIRST NO_DRAIN_AT_GONE

one OK large_life ""
mutants large_life "" NO_TIME LATE_TIME TIME_FIRST

one OK index ""
mutants index "" NO_VERSION LATE_ODD EARLY_EVEN

total=$(($(tr -cd '\0' <"$list" | wc -c) / 5))
started=$SECONDS
xargs -0 -n 5 -P "${JOBS:-2}" ./run_one.sh <"$list"
status=$?
echo "$total runs, $((SECONDS - started)) s: $([ $status -eq 0 ] && echo "all as wanted" || echo "NOT as wanted")"
exit $((status != 0))
