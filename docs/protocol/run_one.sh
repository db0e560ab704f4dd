#!/bin/bash
# run_one.sh WANT MODEL.pml "DEFINES" ["CC FLAGS" ["PAN FLAGS"]]: checks one model; one line, status 0 if it is as wanted.
# WANT: OK (no error in the full state space) or BUG (a counter-example).
want=$1 model=$2 defines=$3 flags=${4:--DSAFETY} pan=${5:--m2000000}
here=$(cd "$(dirname "$0")" && pwd)
optimised=-O2
[ "$want" = BUG ] && optimised=-O0 # found at once; to compile takes longer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/$model" "$work" && cd "$work" || exit 1
# shellcheck disable=SC2086
if ! spin -a $defines -o3 "$model" >generated 2>&1 || ! gcc $optimised -w -DVECTORSZ=4096 -DMEMLIM=8000 $flags -o pan pan.c 2>compiled; then
    echo "FAILED     $model [$defines]"
    cat generated compiled
    exit 1
fi
started=$(date +%s.%N)
# shellcheck disable=SC2086
./pan $pan >out 2>&1
took=$(echo "$(date +%s.%N) $started" | awk '{printf "%.1f", $1 - $2}')
got=BUG
grep -q "errors: 0" out && got=OK
grep -qE "Search not completed|out of memory|max search depth too small" out && [ $got = OK ] && got=INCOMPLETE
states=$(awk '/states, stored/ {print $1; exit}' out)
why=$(grep -m1 -E "^pan:1:" out)
verdict=as-wanted
[ "$got" = "$want" ] || verdict=UNEXPECTED
echo "$verdict $want $model [$defines] states=$states ${took}s $why"
[ "$got" = "$want" ]
