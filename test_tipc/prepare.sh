#!/usr/bin/env bash
# Makes what a chain needs, here and without a download: bash test_tipc/prepare.sh <FILE> <MODE>
#
#   test_tipc/data/lite/{train,val,val_input}/   drawn faces on the FFHQ template, 12 + 4 pictures
#   test_tipc/data/lite/components.npz           their eye and mouth boxes
#   test_tipc/data/pictures/                     three photos of one person, made from the demo pictures
#   test_tipc/data/<MODEL>/                      for chains that begin with a trained or exported network: the files of a
#                                                few training steps; for GFPGAN_mobile the shipped weights, exported
set -euo pipefail
# shellcheck source=common_func.sh
source "$(dirname "$0")/common_func.sh"

[[ -n ${2:-} ]] || die "usage: bash $0 test_tipc/configs/<MODEL>/<FILE>.txt <MODE>"
[[ -f $1 ]] || die "$1: no such file"
read_params "$1" "$(head -n 1 "$1")"
MODE=$2
MODEL=$(named 2 model_name)
PYTHON=python
if [[ $(key 3) == python ]]; then PYTHON=$(value 3); fi
command -v "$PYTHON" >/dev/null || die "$PARAM_FILE: line 3: there is no program $PYTHON"
DATA=test_tipc/data
mkdir -p "$DATA"

step() { # step WHAT COMMAND...
  local what=$1
  shift
  LAST_LOG=$DATA/prepare.log
  if ! "$@" >"$LAST_LOG" 2>&1 </dev/null; then
    tail -n 15 "$LAST_LOG" | sed 's/^/  | /' >&2
    die "prepare: $what: $* failed"
  fi
  echo "prepared: $what"
}

make_lite_data() {
  [[ ! -f $DATA/lite/components.npz ]] || return 0
  rm -rf "$DATA/lite"
  step "$DATA/lite" "$PYTHON" tools/make_lite_data.py --output "$DATA/lite" --size 128 --train 12 --val 4 --seed 0
}

make_pictures() {
  [[ ! -d $DATA/pictures ]] || return 0
  step "$DATA/pictures" "$PYTHON" test_tipc/make_pictures.py --output "$DATA/pictures"
}

train_little() { # a checkpoint of a few steps, for the chains that begin after training
  local file=test_tipc/configs/$MODEL/train_infer_python.txt folder=$DATA/$MODEL words checkpoint
  [[ ! -s $folder/generator.pdparams ]] || return 0
  [[ -f $file ]] || die "$file: no such file"
  mapfile -t PARAMS <"$file"
  checkpoint=$(named 11 train_model_name)
  read -ra words <<<"$(named 16 norm_train)"
  step "$folder (training)" "$PYTHON" "${words[@]}" "output_dir=$folder/training" train.total_steps=2 data.batch_size=2
  cp "$(dirname "$folder/training/$checkpoint")"/*.pdparams "$folder/" # SGPN's shape network has to lie beside
  cp "$folder/training/$checkpoint" "$folder/generator.pdparams"
}

export_little() { # its inference model
  local file=test_tipc/configs/$MODEL/train_infer_python.txt folder=$DATA/$MODEL words weights=()
  [[ ! -s $folder/inference/inference.yml ]] || return 0
  mapfile -t PARAMS <"$file"
  read -ra words <<<"$(named 30 norm_export)"
  [[ ! -s $folder/generator.pdparams ]] || weights=("weights=$folder/generator.pdparams")
  step "$folder/inference" "$PYTHON" "${words[@]}" "${weights[@]}" "export.dir=$folder/inference"
}

case $MODE in
  lite_train_* | whole_train_* | benchmark_train)
    [[ $MODE != whole_train_* ]] || echo "whole_train: put the aligned FFHQ faces where the configuration's data.root says"
    make_lite_data
    make_pictures
    ;;
  whole_infer)
    make_pictures
    if [[ $MODEL != GFPGAN_mobile ]]; then
      make_lite_data
      train_little
    fi
    ;;
  paddle2onnx_infer | serving_infer | cpp_infer | klquant_whole_infer)
    make_pictures
    make_lite_data
    [[ $MODEL == GFPGAN_mobile ]] || train_little
    export_little
    if [[ $MODE == serving_infer && -f deploy/serving_python/setup.sh ]]; then
      step "the serving environment" env PYTHON="$(command -v "$PYTHON")" bash deploy/serving_python/setup.sh
    fi
    ;;
  *) die "there is no mode $MODE" ;;
esac
