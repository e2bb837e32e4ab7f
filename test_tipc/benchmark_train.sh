#!/usr/bin/env bash
# Training speed for the batch sizes and precisions of the block ===train_benchmark_params===.
#
#   bash test_tipc/benchmark_train.sh test_tipc/configs/<MODEL>/train_infer_python.txt benchmark_train [CASE]
#
# CASE, as elsewhere: dynamic_bs2_fp32_DP_N1C1 (C2: two processes; dynamicTostatic: compiled). Without it: all of the file.
# Each case leaves <case>.log, and one line of JSON in <case>_speed.log.
set -euo pipefail
# shellcheck source=common_func.sh
source "$(dirname "$0")/common_func.sh"

begin "${1:-}" "===train_params===" "${2:-}" results_benchmark.log
[[ $MODE == benchmark_train ]] || die "this script has no mode $MODE"

STEPS_KEY=$(key 7)
OUTPUT_KEY=$(key 8)
BATCH_KEY=$(key 9)
TRAIN=$(named 16 norm_train)
TO_STATIC=$(named 20 to_static_train)
AUTOCAST_KEY=$(key 6)

first=0
for number in "${!PARAMS[@]}"; do
  [[ ${PARAMS[number]} != "===train_benchmark_params=="* ]] || first=$((number + 2))
done
((first > 0)) || die "$PARAM_FILE: there is no block ===train_benchmark_params==="
BATCHES=$(named "$first" batch_size)
PRECISIONS=$(named $((first + 1)) fp_items)
STEPS=$(named $((first + 2)) epoch)
PROFILER_KEY=$(key $((first + 3)))
PROFILER=$(value $((first + 3)))
FLAGS=$(named $((first + 4)) flags)

cases() {
  if [[ -n ${1:-} ]]; then
    echo "$1"
    return
  fi
  local batch precision
  while read -r batch; do
    while read -r precision; do echo "dynamic_bs${batch}_${precision}_DP_N1C1"; done < <(items "$PRECISIONS")
  done < <(items "$BATCHES")
}

[[ $FLAGS == null ]] || {
  IFS=';' read -ra flags <<<"$FLAGS"
  export "${flags[@]}"
}
expected=$(cases "${3:-}" | wc -l)
[[ $PROFILER_KEY == null || $PROFILER == null ]] || expected=$((expected + 1)) # the first case, under the profiler
expect "$expected"
profiled=False
while read -r name <&3; do
  [[ $name =~ ^(dynamic|dynamicTostatic)_bs([0-9]+)_(fp32|fp16)_DP_N1C([0-9]+)$ ]] ||
    die "$name: a case is dynamic_bs2_fp32_DP_N1C1"
  kind=${BASH_REMATCH[1]} batch=${BASH_REMATCH[2]} precision=${BASH_REMATCH[3]} cards=${BASH_REMATCH[4]}
  read -ra words <<<"$TRAIN"
  save=$OUTPUT/$name
  extra=("$OUTPUT_KEY=$save" "$STEPS_KEY=$STEPS" "$BATCH_KEY=$((batch * cards))" train.benchmark=true)
  [[ $precision == fp32 ]] || extra+=("$AUTOCAST_KEY=float16")
  [[ $kind == dynamic ]] || extra+=("$TO_STATIC")
  launcher=()
  ((cards == 1)) || launcher=(-m paddle.distributed.launch --nproc_per_node "$cards" --log_dir "$save/ranks")
  execute "$save.log" "$PYTHON" "${launcher[@]}" "${words[@]}" "${extra[@]}"
  ips=$(grep -oE '\[BENCHMARK\].*ips: [0-9.]+' "$save.log" | tail -n 1 | grep -oE '[0-9.]+$' || true)
  [[ $ips =~ ^[0-9]+\.?[0-9]*$ && ! $ips =~ ^[0.]+$ ]] || fault "printed no speed (a line [BENCHMARK] ips: <number>)"
  printf '{"model": "%s", "case": "%s", "batch_size": %s, "ranks": %s, "ips": %s, "unit": "images/s"}\n' \
    "$MODEL" "$name" "$batch" "$cards" "$ips" >"${save}_speed.log"
  succeed
  tail -n 1 "${save}_speed.log" | record
  if [[ $PROFILER_KEY != null && $PROFILER != null && $profiled == False ]]; then
    profiled=True
    execute "${save}_profile.log" "$PYTHON" "${words[@]}" "${extra[@]}" "$PROFILER_KEY=$PROFILER"
    succeed
  fi
done 3< <(cases "${3:-}")
finish
