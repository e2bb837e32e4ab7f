#!/usr/bin/env bash
# The same training with and without paddle.jit.to_static: the losses of every step have to agree.
#
#   bash test_tipc/test_train_dy2static_python.sh test_tipc/configs/<MODEL>/train_dy2static_python.txt lite_train_lite_infer
set -euo pipefail
# shellcheck source=common_func.sh
source "$(dirname "$0")/common_func.sh"

begin "${1:-}" "===train_params===" "${2:-}" results_dy2static.log
[[ $MODE == lite_train_lite_infer ]] || die "this script has no mode $MODE"

STEPS_KEY=$(key 7)
STEPS=$(for_mode 7)
OUTPUT_KEY=$(key 8)
BATCH_KEY=$(key 9)
BATCH=$(for_mode 9)
CHECKPOINT=$(named 11 train_model_name)
TRAIN=$(named 16 norm_train)
TO_STATIC=$(named 20 to_static_train)
ARCH=$(arch_of "$MODEL")
read -ra words <<<"$TRAIN"
every=$((STEPS / 2 < 1 ? 1 : STEPS / 2))

kinds=(dynamic static)
expect $((${#kinds[@]} + 1)) # and the comparison
for kind in "${kinds[@]}"; do
  save=$OUTPUT/$kind
  extra=("$OUTPUT_KEY=$save" "$STEPS_KEY=$STEPS" "$BATCH_KEY=$BATCH" train.log_every=1)
  extra+=("train.save_every=$every" "train.milestone_every=$every")
  [[ $kind == dynamic ]] || extra+=("$TO_STATIC")
  execute "$save.log" "$PYTHON" "${words[@]}" "${extra[@]}"
  check "$PYTHON" test_tipc/checks.py training --log "$save.log" --dir "$save" --checkpoint "$CHECKPOINT" --arch "$ARCH"
  succeed
done
compare "$OUTPUT/losses.log" "$PYTHON" test_tipc/checks.py losses --first "$OUTPUT/dynamic.log" --second "$OUTPUT/static.log"
tail -n 1 "$OUTPUT/losses.log" | record
finish
