#!/usr/bin/env bash
# Training, evaluation, export and Paddle Inference, for every combination a parameter file lists.
#
#   bash test_tipc/test_train_inference_python.sh test_tipc/configs/<MODEL>/<FILE>.txt <MODE>
#
# MODE: lite_train_lite_infer | lite_train_whole_infer | whole_train_whole_infer | whole_infer
set -euo pipefail
# shellcheck source=common_func.sh
source "$(dirname "$0")/common_func.sh"

begin "${1:-}" "===train_params===" "${2:-}" results_python.log
case $MODE in
  lite_train_lite_infer | lite_train_whole_infer | whole_train_whole_infer | whole_infer) ;;
  *) die "this script has no mode $MODE" ;;
esac

GPU_LIST=$(named 4 gpu_list)
AUTOCAST_KEY=$(key 6)
AUTOCAST_LIST=$(value 6)
STEPS_KEY=$(key 7)
OUTPUT_KEY=$(key 8)
BATCH_KEY=$(key 9)
PRETRAIN_KEY=$(key 10)
PRETRAIN=$(value 10)
CHECKPOINT=$(named 11 train_model_name)
TRAIN_INFER_IMAGES=$(named 12 train_infer_img_dir)
SPARE_TRAIN_KEY=$(key 13)
SPARE_TRAIN=$(value 13)
TRAINERS=$(named 15 trainer)
TO_STATIC=$(named 20 to_static_train)
[[ ${PARAMS[22]} == "===eval_params===" ]] || die "$PARAM_FILE: line 23 must be ===eval_params==="
EVAL=$(named 24 eval)
[[ ${PARAMS[26]} == "===infer_params===" ]] || die "$PARAM_FILE: line 27 must be ===infer_params==="
EXPORT_DIR_KEY=$(key 28)
EXPORT_WEIGHT_KEY=$(key 29)
NORM_EXPORT=$(named 30 norm_export)
INFERENCE_DIR=$(named 36 inference_dir)
INFER_MODEL=$(named 37 infer_model)
INFER_EXPORT=$(named 38 infer_export)
INFER=$(named 40 inference)
GPU_KEY=$(key 41)
GPU_USES=$(value 41)
MKLDNN_KEY=$(key 42)
MKLDNN_USES=$(value 42)
THREADS_KEY=$(key 43)
THREADS=$(value 43)
INFER_BATCH_KEY=$(key 44)
INFER_BATCHES=$(value 44)
TRT_KEY=$(key 45)
TRT_USES=$(value 45)
PRECISION_KEY=$(key 46)
PRECISIONS=$(value 46)
MODEL_DIR_KEY=$(key 47)
IMAGE_KEY=$(key 48)
INFER_IMAGES=$(value 48)
LOG_KEY=$(key 49)
BENCHMARK_KEY=$(key 50)
BENCHMARK=$(value 50)
SAVE_KEY=$(key 51)
ARCH=$(arch_of "$MODEL")
KEPT=$(reference_of "$PARAM_FILE" "$MODE")

trainer_command() { # trainer_command NAME: the command of a trainer, from lines 16 to 20
  case $1 in
    norm_train) named 16 norm_train ;;
    pact_train) named 17 pact_train ;;
    fpgm_train) named 18 fpgm_train ;;
    distill_train) named 19 distill_train ;;
    to_static_train) named 16 norm_train ;;
    *) die "$PARAM_FILE: line 15: there is no trainer $1" ;;
  esac
}

# --- what this machine can run, counted before anything runs --------------------------------------------------------------

runnable_gpus() { # the entries of gpu_list that this machine has
  local gpu
  while read -r gpu; do
    if [[ $gpu == -1 || $gpu == cpu* ]] || has_gpu; then echo "$gpu"; fi
  done < <(items "$GPU_LIST")
}

grid() { # the inference combinations of this machine: `use_gpu mkldnn threads tensorrt precision batch`, one a line
  local use_gpu a b c d
  while read -r use_gpu; do
    if [[ $use_gpu == False ]]; then
      while read -r a; do while read -r b; do while read -r c; do while read -r d; do
        # bfloat16 is a matter of the processor, and of an engine: Paddle's plain kernels have none on a CPU
        if [[ $c == bf16 ]] && { [[ $a == False || $a == paddle ]] || ! has_bfloat16; }; then continue; fi
        echo "False $a $b null $c $d"
      done < <(items "$INFER_BATCHES"); done < <(items "$PRECISIONS"); done < <(items "$THREADS"); done < <(items "$MKLDNN_USES")
    elif has_gpu; then
      while read -r a; do while read -r c; do while read -r d; do
        [[ $a == False && $c != fp32 ]] && continue
        echo "True null null $a $c $d"
      done < <(items "$INFER_BATCHES"); done < <(items "$PRECISIONS"); done < <(items "$TRT_USES")
    fi
  done < <(items "$GPU_USES")
}

grid_precisions() { grid | cut -d ' ' -f 5 | sort -ru; } # fp32 before the others

explain_left_out() {
  local entry
  while read -r entry; do
    [[ $entry == -1 || $entry == cpu* ]] || has_gpu || left_out "gpu_list $entry needs an NVIDIA GPU"
  done < <(items "$GPU_LIST")
  [[ $GPU_USES != *True* ]] || has_gpu || left_out "$GPU_KEY=True needs an NVIDIA GPU"
  [[ $PRECISIONS != *bf16* || $GPU_USES != *False* ]] || has_bfloat16 ||
    left_out "precision bf16 needs a processor with avx512_bf16 or amx_bf16"
}

# --- one step of the chain each --------------------------------------------------------------------------------------------

train() { # train TRAINER GPU AUTOCAST SAVE_DIR
  local trainer=$1 gpu=$2 autocast=$3 save=$4 command launcher=() words extra=() every log
  command=$(trainer_command "$trainer")
  read -ra words <<<"$command"
  every=$((STEPS / 2 < 1 ? 1 : STEPS / 2 > 5000 ? 5000 : STEPS / 2))
  mapfile -t extra < <(
    argument "$OUTPUT_KEY" "$save"
    argument "$STEPS_KEY" "$STEPS"
    argument "$BATCH_KEY" "$BATCH"
    argument "$PRETRAIN_KEY" "$PRETRAIN"
    argument "$SPARE_TRAIN_KEY" "$SPARE_TRAIN"
    [[ $autocast != amp ]] || argument "$AUTOCAST_KEY" float16
    [[ $trainer != to_static_train ]] || echo "$TO_STATIC"
    if [[ $gpu == -1 || $gpu == cpu* ]] && has_gpu; then echo device=cpu; fi
    # an earlier checkpoint, to show that the weights change between the two
    argument train.save_every "$every"
    argument train.milestone_every "$every"
  )
  if [[ $gpu == *,* || $gpu == cpu* ]]; then
    local ranks=${gpu#cpu}
    [[ $gpu == cpu* ]] || ranks=$(tr ',' '\n' <<<"${gpu##*;}" | wc -l)
    if has_gpu && [[ $gpu != cpu* ]]; then
      launcher=(-m paddle.distributed.launch "--gpus=${gpu##*;}")
      [[ $gpu != *\;* ]] || launcher+=("--ips=${gpu%%;*}")
    else
      launcher=(-m paddle.distributed.launch --nproc_per_node "$ranks")
    fi
    launcher+=(--log_dir "$save/ranks")
  fi
  log=$save.log
  [[ ! $gpu =~ ^[0-9]+$ ]] || export CUDA_VISIBLE_DEVICES=$gpu
  execute "$log" "$PYTHON" "${launcher[@]}" "${words[@]}" "${extra[@]}"
  check "$PYTHON" test_tipc/checks.py training --log "$log" --dir "$save" --checkpoint "$CHECKPOINT" --arch "$ARCH"
  succeed
}

evaluate() { # evaluate SAVE_DIR
  local words
  read -ra words <<<"$EVAL"
  execute "${1}_eval.log" "$PYTHON" "${words[@]}" "$EXPORT_WEIGHT_KEY=$1/$CHECKPOINT"
  check "$PYTHON" test_tipc/checks.py evaluation --log "${1}_eval.log"
  succeed
}

export_model() { # export_model COMMAND WEIGHTS DIR LOG
  local words
  read -ra words <<<"$1"
  execute "$4" "$PYTHON" "${words[@]}" "$EXPORT_WEIGHT_KEY=$2" "$EXPORT_DIR_KEY=$3"
  check "$PYTHON" test_tipc/checks.py export --dir "$3" --arch "$ARCH"
  succeed
}

infer() { # infer MODEL_DIR IMAGES LOG_PREFIX: the whole grid, then all of it against the reference
  local use_gpu mkldnn threads trt precision batch name log words reference=""
  read -ra words <<<"$INFER"
  [[ -e $2 ]] || die "$2: no such folder of pictures; run test_tipc/prepare.sh first"
  LAST_COMMAND="$PYTHON $INFER"
  LAST_LOG=${3}check.log
  : >"$LAST_LOG"
  check "$PYTHON" test_tipc/checks.py export --dir "$1" --arch "$ARCH"
  while read -r use_gpu mkldnn threads trt precision batch; do
    if [[ $use_gpu == False ]]; then
      name=python_infer_cpu_usemkldnn_${mkldnn}_threads_${threads}_precision_${precision}_batchsize_$batch
    else
      name=python_infer_gpu_usetrt_${trt}_precision_${precision}_batchsize_$batch
    fi
    log=${3}$name.log
    local options=("$GPU_KEY=$use_gpu" "$MODEL_DIR_KEY=$1" "$IMAGE_KEY=$2" "$INFER_BATCH_KEY=$batch")
    mapfile -t -O "${#options[@]}" options < <(
      argument "$MKLDNN_KEY" "$mkldnn"
      argument "$THREADS_KEY" "$threads"
      argument "$TRT_KEY" "$trt"
      argument "$PRECISION_KEY" "$precision"
      argument "$LOG_KEY" "$log"
      argument "$BENCHMARK_KEY" "$BENCHMARK"
      argument "$SAVE_KEY" "${log%.log}"
    )
    execute "$log" "$PYTHON" "${words[@]}" "${options[@]}"
    check "$PYTHON" test_tipc/checks.py results --dir "${log%.log}" --inputs "$2"
    reference=${reference:-$log}
    succeed
  done < <(grid)
  if [[ -n ${TIPC_KEEP:-} ]]; then
    keep_reference "$3"
  fi
  [[ ! -f $KEPT ]] || reference=$KEPT
  while read -r precision; do
    same_pictures "${3}compare_$precision.log" "$reference" "${3}python_infer_*_precision_${precision}_*.log" "$precision"
  done < <(grid_precisions)
}

keep_reference() { # keep_reference LOG_PREFIX: the numbers of Paddle's plain kernels, if in the grid, become the reference file
  local logs=("$1"python_infer_cpu_usemkldnn_{False,paddle}_threads_1_precision_fp32_batchsize_1.log "$1"python_infer_cpu_*_fp32_*.log) log
  for log in "${logs[@]}"; do
    [[ -f $log ]] || continue
    mkdir -p "$(dirname "$KEPT")"
    {
      echo "# TIPC_KEEP=1 bash test_tipc/run.sh $PARAM_FILE $MODE"
      grep '^picture/' "$log"
    } >"$KEPT"
    return
  done
  die "TIPC_KEEP: the grid has no fp32 on a CPU"
}

# --- the chain ---------------------------------------------------------------------------------------------------------------

[[ $MODE == whole_infer || $(runnable_gpus | wc -l) != 0 ]] || not_run "gpu_list $GPU_LIST needs an NVIDIA GPU"
explain_left_out
GRID_SIZE=$(($(grid | wc -l) + $(grid_precisions | wc -l))) # and one comparison for each precision
[[ $INFER != null ]] || GRID_SIZE=0

if [[ $MODE == whole_infer ]]; then
  expected=0
  while read -r name; do
    expected=$((expected + GRID_SIZE))
    [[ $name == null ]] || expected=$((expected + 1))
  done < <(items "$INFER_EXPORT")
  expect "$expected"
  while read -r name <&3; do
    if [[ $name == null ]]; then
      infer "$INFER_MODEL" "$INFER_IMAGES" "$OUTPUT/"
    else
      command=$(named 30 norm_export)
      export_model "$command" "$INFER_MODEL" "$OUTPUT/$name" "$OUTPUT/${name}_export.log"
      infer "$OUTPUT/$name" "$INFER_IMAGES" "$OUTPUT/"
    fi
  done 3< <(items "$INFER_EXPORT")
  finish
  exit 0
fi

STEPS=$(for_mode 7)
BATCH=$(for_mode 9)
per_run=1
[[ $EVAL == null ]] || per_run=$((per_run + 1))
[[ $NORM_EXPORT == null ]] || per_run=$((per_run + 1 + GRID_SIZE))
expect $((per_run * $(runnable_gpus | wc -l) * $(count_items "$AUTOCAST_LIST") * $(count_items "$TRAINERS")))

IMAGES=$TRAIN_INFER_IMAGES
[[ $MODE == lite_train_lite_infer ]] || IMAGES=$INFER_IMAGES
while read -r gpu <&3; do
  while read -r autocast <&4; do
    while read -r trainer <&5; do
      save=$OUTPUT/${trainer}_gpus_${gpu}_autocast_$autocast
      train "$trainer" "$gpu" "$autocast" "$save"
      [[ $EVAL == null ]] || evaluate "$save"
      if [[ $NORM_EXPORT != null ]]; then
        model_dir=$save/inference
        [[ $INFERENCE_DIR == null ]] || model_dir=$save/$INFERENCE_DIR
        export_model "$NORM_EXPORT" "$save/$CHECKPOINT" "$model_dir" "${save}_export.log"
        [[ $INFER == null ]] || infer "$model_dir" "$IMAGES" "${save}_"
      fi
    done 5< <(items "$TRAINERS")
  done 4< <(items "$AUTOCAST_LIST")
done 3< <(runnable_gpus)
finish
