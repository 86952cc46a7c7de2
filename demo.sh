#!/bin/sh
# The whole chain, each stage with its test: data, train, h5 -> pb -> optimised pb -> tflite (float, int8), report.
# Called by `make demo`; DATA, VALID and RECIPE come from there. What is finished is not done again.
set -eu
cd "$(dirname "$0")"
python=.venv/bin/python
out=demo_out/${DATA:+$(basename "$DATA")}
out=${out%/}
run() { echo "\$ $*" | sed "s#$python#python#"; "$@"; echo; }

if [ -z "${DATA:-}" ]; then
    out=demo_out/toy
    [ -d $out/faces ] || run $python -m facelib.toy_data $out/faces --format folders --identities 160 --images 15
    [ -f $out/valid/toy.bin ] || \
        run $python -m facelib.toy_data $out/valid/toy.bin --format bin --identities 100 --images 8 --num-pairs 2400
    DATA=$out/faces VALID=$out/valid RECIPE=${RECIPE:-recipes/toy.toml}
fi
if [ -z "${VALID:-}" ]; then
    VALID=valid_dataset
    ls "$DATA"/*.bin > /dev/null 2>&1 && VALID=$DATA
fi

run $python prepare_data.py "$DATA" $out/data
run $python train.py "${RECIPE:-recipes/small_mobilefacenet.toml}" --data $out/data --valid "$VALID" --out $out/run

export=$out/run/export
fars="--far 0.01 0.001"
run $python evaluate_data.py $out/run/embedder.h5 --valid "$VALID" $fars
run $python h5_2_pb.py $out/run/embedder.h5
run $python pb_test.py $export/frozen.pb --valid "$VALID" $fars --against $out/run/embedder.h5.report.json --max-acc-drop 0.1
run ./optimize_pb.sh $export/frozen.pb
run $python pb_test.py $export/optimized.pb --valid "$VALID" $fars --against $export/frozen.pb.report.json --max-acc-drop 0.1
run $python pb_2_tflite.py $export/optimized.pb --mode float
run $python tflite_test.py $export/model_float.tflite --valid "$VALID" $fars --against $export/optimized.pb.report.json
run $python pb_2_tflite.py $export/optimized.pb --mode int8 --calibration $out/data
run $python tflite_test.py $export/model_int8.tflite --valid "$VALID" $fars \
    --against $export/model_float.tflite.report.json --max-acc-drop 2 --max-vr-drop 10
run $python report.py $out/run
