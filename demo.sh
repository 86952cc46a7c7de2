#!/bin/sh
# The whole pipeline: data, training, and every export with its test (export_all.py), with a table and report.html at the end.
# `make demo` calls it, with DATA, VALID, RECIPE and DEVICE. Steps that are complete are skipped.
set -eu
cd "$(dirname "$0")"
python=.venv/bin/python
out=demo_out/${DATA:+$(basename "$DATA")}
out=${out%/}
export MOBILEARC_HINTS=off  # the next commands of single scripts: this script runs them

# Prints a command line that can be copied, and runs it.
run() {
    line='$'
    for word in "$@"; do
        [ "$word" = "$python" ] && word=python
        case $word in
            '' | *[!A-Za-z0-9_./:=,+@%-]*) word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'" ;;
        esac
        line="$line $word"
    done
    printf '%s\n' "$line"
    "$@"
    echo
}

if [ -z "${DATA:-}" ]; then
    out=demo_out/toy
    echo "DATA is not set: the demo uses synthetic faces. Results: $out/run"; echo
    [ -d $out/faces ] || run $python tools/synthetic_faces.py $out/faces --format folders --identities 160 --images 15
    [ -f $out/valid/toy.bin ] || \
        run $python tools/synthetic_faces.py $out/valid/toy.bin --format bin --identities 100 --images 8 --num-pairs 2400
    DATA=$out/faces VALID=$out/valid RECIPE=${RECIPE:-recipes/toy.toml}
fi
if [ -z "${VALID:-}" ]; then
    VALID=valid_dataset
    ls "$DATA"/*.bin > /dev/null 2>&1 && VALID=$DATA
fi

run $python prepare_data.py "$DATA" "$out/data"
run $python train.py "${RECIPE:-recipes/small_mobilefacenet.toml}" --data "$out/data" --valid "$VALID" --out "$out/run" \
    ${DEVICE:+--device "$DEVICE"}

run $python export_all.py "$out/run" --valid "$VALID" --calibration "$out/data" --far 0.01 0.001 --max-acc-drop 2 --max-vr-drop 10
