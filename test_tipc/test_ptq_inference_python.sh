#!/usr/bin/env bash
# Post-training quantisation and inference with the quantised model.
#
#   bash test_tipc/test_ptq_inference_python.sh test_tipc/configs/<MODEL>/train_ptq_infer_python.txt whole_infer
set -euo pipefail
# shellcheck source=common_func.sh
source "$(dirname "$0")/common_func.sh"

begin "${1:-}" "===ptq_params===" "${2:-}" results_ptq.log
[[ $MODE == whole_infer ]] || die "this script has no mode $MODE"

MODEL_DIR=$(named 4 model_dir)
QUANTISE=$(named 5 ptq)
SOURCE_KEY=$(key 6)
TARGET_KEY=$(key 7)
QUANTISED=$(value 7)
CALIBRATION_KEY=$(key 8)
CALIBRATION=$(value 8)
INFER=$(named 10 inference)
IMAGES=$(value 18)
ARCH=$(arch_of "$MODEL")

"$PYTHON" -c 'import paddleslim' 2>/dev/null || not_run "paddleslim is not installed"
read -ra words <<<"$QUANTISE"
[[ -f ${words[0]} ]] || not_run "${words[0]} is not part of this checkout"
execute "$OUTPUT/ptq.log" "$PYTHON" "${words[@]}" "$SOURCE_KEY=$MODEL_DIR" "$TARGET_KEY=$QUANTISED" "$CALIBRATION_KEY=$CALIBRATION"
check "$PYTHON" test_tipc/checks.py export --dir "$QUANTISED" --arch "$ARCH"
succeed

expected=1
while read -r threads <&3; do
  name=python_infer_cpu_int8_threads_$threads
  read -ra words <<<"$INFER"
  mapfile -t options < <(
    argument "$(key 11)" False
    argument "$(key 12)" True
    argument "$(key 13)" "$threads"
    argument "$(key 14)" "$(value 14)"
    argument "$(key 16)" "$(value 16)"
    argument "$(key 17)" "$QUANTISED"
    argument "$(key 18)" "$IMAGES"
    argument "$(key 20)" "$OUTPUT/$name"
  )
  execute "$OUTPUT/$name.log" "$PYTHON" "${words[@]}" "${options[@]}"
  check "$PYTHON" test_tipc/checks.py results --dir "$OUTPUT/$name" --inputs "$IMAGES"
  succeed
  expected=$((expected + 1))
done 3< <(items "$(value 13)")
finish "$expected"
