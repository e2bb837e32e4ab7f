#!/usr/bin/env bash
# Post-training quantisation and inference with the quantised model.
#
#   bash test_tipc/test_ptq_inference_python.sh test_tipc/configs/<MODEL>/train_ptq_infer_python.txt whole_infer
set -euo pipefail
# shellcheck source=common_func.sh
source "$(dirname "$0")/common_func.sh"

begin "${1:-}" "===ptq_params===" "${2:-}" results_ptq.log
[[ $MODE == whole_infer || $MODE == klquant_whole_infer ]] || die "this script has no mode $MODE"

MODEL_DIR=$(named 4 model_dir)
QUANTISE=$(named 5 ptq)
SOURCE_KEY=$(key 6)
TARGET_KEY=$(key 7)
QUANTISED=$(value 7)
CALIBRATION_KEY=$(key 8)
CALIBRATION=$(value 8)
INFER=$(named 10 inference)
THREADS=$(value 13)
IMAGES=$(value 18)
ARCH=$(arch_of "$MODEL")

read -ra words <<<"$QUANTISE"
[[ -f ${words[0]} ]] || not_run "${words[0]} is not part of this checkout: this repository has no quantisation program"
[[ -e $MODEL_DIR/inference.yml ]] || die "$MODEL_DIR: no exported model; run test_tipc/prepare.sh first"
WHOLE=$(whole_infer_file)
KEPT=$(reference_of "$WHOLE" whole_infer)
[[ -f $KEPT ]] || die "$KEPT: no reference numbers to hold the quantised network to"
expect $((1 + $(count_items "$THREADS") + 1)) # quantisation, the numbers of threads, the comparison

mapfile -t options < <(
  argument "$SOURCE_KEY" "$MODEL_DIR"
  argument "$TARGET_KEY" "$QUANTISED"
  argument "$CALIBRATION_KEY" "$CALIBRATION"
)
execute "$OUTPUT/ptq.log" "$PYTHON" "${words[@]}" "${options[@]}"
check "$PYTHON" test_tipc/checks.py export --dir "$QUANTISED" --arch "$ARCH"
succeed

while read -r threads <&3; do
  name=python_infer_cpu_engine_$(value 12)_threads_${threads}_precision_int8_batchsize_$(value 14)
  read -ra words <<<"$INFER"
  mapfile -t options < <(
    for line in 11 12 14 15 16 18 19; do argument "$(key $line)" "$(value $line)"; done
    argument "$(key 13)" "$threads"
    argument "$(key 17)" "$QUANTISED"
    argument "$(key 20)" "$OUTPUT/$name"
  )
  execute "$OUTPUT/$name.log" "$PYTHON" "${words[@]}" "${options[@]}"
  check "$PYTHON" test_tipc/checks.py results --dir "$OUTPUT/$name" --inputs "$IMAGES"
  succeed
done 3< <(items "$THREADS")
same_pictures "$OUTPUT/compare_int8.log" "$KEPT" "$OUTPUT/python_infer_*.log" int8
finish
