#!/usr/bin/env bash
# The C++ program: built, then run over every combination the file lists, compared with Paddle Inference in Python.
#
#   bash test_tipc/test_inference_cpp.sh test_tipc/configs/<MODEL>/inference_cpp.txt cpp_infer
set -euo pipefail
# shellcheck source=common_func.sh
source "$(dirname "$0")/common_func.sh"

[[ -n ${1:-} ]] || die "usage: bash $0 test_tipc/configs/<MODEL>/inference_cpp.txt cpp_infer"
begin "$1" "===cpp_infer_params===" "${2:-}" results_cpp.log
[[ $MODE == cpp_infer ]] || die "this script has no mode $MODE"

BUILD=$(named 4 build)
MODEL_DIR=$(named 5 infer_model)
INFER=$(named 6 inference)
THREADS_KEY=$(key 7)
THREADS=$(value 7)
MKLDNN_KEY=$(key 8)
MKLDNN_USES=$(value 8)
MODEL_KEY=$(key 9)
IMAGE_KEY=$(key 10)
IMAGES=$(value 10)
SAVE_KEY=$(key 11)
PADDLE=$(named 12 reference)
ARCH=$(arch_of "$MODEL")

[[ -f deploy/inference_cpp/CMakeLists.txt ]] || not_run "deploy/inference_cpp is not part of this checkout"
command -v g++ >/dev/null || not_run "there is no C++ compiler (g++)"
LAST_COMMAND="the model to run" LAST_LOG=$OUTPUT/check.log
: >"$LAST_LOG"
check "$PYTHON" test_tipc/checks.py export --dir "$MODEL_DIR" --arch "$ARCH"

WHOLE=$(whole_infer_file)
KEPT=$(reference_of "$WHOLE" whole_infer)
expected=$((2 + $(count_items "$MKLDNN_USES") * $(count_items "$THREADS") + 1)) # build, Python, the grid, Python against it
[[ ! -f $KEPT ]] || expected=$((expected + 1))
expect "$expected"

read -ra words <<<"$BUILD"
execute "$OUTPUT/build.log" "${words[@]}"
succeed
read -ra words <<<"$PADDLE"
execute "$OUTPUT/python_infer.log" "$PYTHON" "${words[@]}" "--model_dir=$MODEL_DIR" "--image_dir=$IMAGES" "--save_dir=$OUTPUT/python"
check "$PYTHON" test_tipc/checks.py results --dir "$OUTPUT/python" --inputs "$IMAGES"
succeed
while read -r mkldnn <&3; do
  while read -r threads <&4; do
    name=cpp_infer_cpu_usemkldnn_${mkldnn}_threads_$threads
    read -ra words <<<"$INFER"
    mapfile -t options < <(
      argument "$MODEL_KEY" "$MODEL_DIR"
      argument "$IMAGE_KEY" "$IMAGES"
      argument "$SAVE_KEY" "$OUTPUT/$name"
      argument "$THREADS_KEY" "$threads"
      argument "$MKLDNN_KEY" "$mkldnn"
    )
    execute "$OUTPUT/$name.log" "${words[@]}" "${options[@]}"
    check "$PYTHON" test_tipc/checks.py results --dir "$OUTPUT/$name" --inputs "$IMAGES"
    succeed
  done 4< <(items "$THREADS")
done 3< <(items "$MKLDNN_USES")
NAMES='picture/*/[!f]*' # the program writes pictures, not the number of faces
same_pictures "$OUTPUT/compare_python.log" "$OUTPUT/python_infer.log" "$OUTPUT/cpp_infer_*.log" fp32 "$NAMES"
[[ ! -f $KEPT ]] || same_pictures "$OUTPUT/compare_reference.log" "$KEPT" "$OUTPUT/cpp_infer_*.log" fp32 "$NAMES"
finish
