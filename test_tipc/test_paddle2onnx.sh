#!/usr/bin/env bash
# Exported model -> ONNX -> pictures by ONNX Runtime, compared with Paddle Inference's pictures of the same model.
#
#   bash test_tipc/test_paddle2onnx.sh test_tipc/configs/<MODEL>/paddle2onnx_infer_python.txt paddle2onnx_infer
set -euo pipefail
# shellcheck source=common_func.sh
source "$(dirname "$0")/common_func.sh"

begin "${1:-}" "===paddle2onnx_params===" "${2:-}" results_paddle2onnx.log
[[ $MODE == paddle2onnx_infer ]] || die "this script has no mode $MODE"

CONVERT=$(named 4 2onnx)
MODEL_DIR=$(value 5)
ONNX=$(value 8)
INFER=$(named 12 inference)
IMAGES=$(value 15)
[[ ${PARAMS[16]:-} == "===compare_params===" ]] || die "$PARAM_FILE: line 17 must be ===compare_params==="
PADDLE=$(named 18 inference)
ARCH=$(arch_of "$MODEL")

"$PYTHON" -c 'import paddle2onnx, onnxruntime' 2>/dev/null ||
  not_run "paddle2onnx and onnxruntime are not installed (requirements-onnx.txt)"
LAST_COMMAND="the model to convert" LAST_LOG=$OUTPUT/check.log
: >"$LAST_LOG"
check "$PYTHON" test_tipc/checks.py export --dir "$MODEL_DIR" --arch "$ARCH"

WHOLE=$(whole_infer_file)
KEPT=$(reference_of "$WHOLE" whole_infer)
STEPS=(convert onnx paddle compare)
[[ ! -f $KEPT ]] || STEPS+=(reference)
expect ${#STEPS[@]}

read -ra words <<<"$CONVERT"
mkdir -p "$(dirname "$ONNX")"
rm -f "$ONNX"
mapfile -t options < <(for line in 5 6 7 8 9 10; do argument "$(key $line)" "$(value $line)"; done)
[[ ${words[0]} != *.py ]] || words=("$PYTHON" "${words[@]}")
execute "$OUTPUT/paddle2onnx.log" "${words[@]}" "${options[@]}"
needs_file "$ONNX"
succeed

read -ra words <<<"$INFER"
mapfile -t options < <(for line in 13 14 15; do argument "$(key $line)" "$(value $line)"; done)
[[ $(key 16) == null ]] || options+=("$(key 16)=$OUTPUT/onnx")
execute "$OUTPUT/onnx_infer.log" "$PYTHON" "${words[@]}" "${options[@]}"
check "$PYTHON" test_tipc/checks.py results --dir "$OUTPUT/onnx" --inputs "$IMAGES"
succeed

read -ra words <<<"$PADDLE"
execute "$OUTPUT/paddle_infer.log" "$PYTHON" "${words[@]}" "$(key 19)=$MODEL_DIR" "$(key 20)=$IMAGES" "$(key 21)=$OUTPUT/paddle"
check "$PYTHON" test_tipc/checks.py results --dir "$OUTPUT/paddle" --inputs "$IMAGES"
succeed

same_pictures "$OUTPUT/compare_paddle.log" "$OUTPUT/paddle_infer.log" "$OUTPUT/onnx_infer.log" fp32
[[ ! -f $KEPT ]] || same_pictures "$OUTPUT/compare_reference.log" "$KEPT" "$OUTPUT/*_infer.log" fp32
finish
