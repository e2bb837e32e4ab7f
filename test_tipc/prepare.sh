#!/usr/bin/env bash
# Makes what a chain needs, here and without a download: bash test_tipc/prepare.sh <FILE> <MODE>
#
#   test_tipc/data/lite/{train,val,val_input}/   drawn faces on the FFHQ template, 12 + 4 pictures
#   test_tipc/data/lite/components.npz           their eye and mouth boxes
#   test_tipc/data/pictures/                     three photos of one person, made from the demo pictures
#   test_tipc/data/<MODEL>/start.pdparams        seeded weights that training starts from
#   test_tipc/data/<MODEL>/                      for chains that begin with a trained or exported network: the weights of two
#                                                training steps, or the shipped ones, and their export
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

# A network made by older code would be compared with numbers of this code: what was made is made anew after a change.
forget_old() {
  local stamp
  stamp=$(find ppgan_fr configs test_tipc/configs -type f \( -name '*.py' -o -name '*.yaml' -o -name '*.txt' \) -print0 |
    LC_ALL=C sort -z | xargs -0 cksum | cksum)
  [[ $(cat "$DATA/$MODEL/.made_of" 2>/dev/null || true) != "$stamp" ]] || return 0
  rm -rf "${DATA:?}/$MODEL"
  mkdir -p "$DATA/$MODEL"
  echo "$stamp" >"$DATA/$MODEL/.made_of"
}

make_start() { # make_start FILE: the weights its training starts from, when line 10 says that they are made here
  local PARAMS PARAM_FILE=$1 words start
  mapfile -t PARAMS <"$PARAM_FILE"
  [[ ${PARAMS[0]} == "===train_params===" ]] || return 0
  start=$(value 10)
  [[ $start == "$DATA/$MODEL/start.pdparams" && ! -s $start ]] || return 0
  read -ra words <<<"$(named 16 norm_train)"
  step "$start" "$PYTHON" test_tipc/make_start.py "${words[@]:1}" --faces "$DATA/lite/val" --output "$start"
}

train_little() { # a checkpoint of a few steps, for the chains that begin after training
  local PARAMS PARAM_FILE=$WEIGHTS_FILE folder=$DATA/$MODEL words checkpoint
  [[ ! -s $folder/generator.pdparams ]] || return 0
  make_start "$WEIGHTS_FILE"
  mapfile -t PARAMS <"$WEIGHTS_FILE"
  checkpoint=$(named 11 train_model_name)
  read -ra words <<<"$(named 16 norm_train)"
  step "$folder (training)" "$PYTHON" "${words[@]}" "output_dir=$folder/training" train.total_steps=2 data.batch_size=2 \
    "$(key 10)=$(value 10)"
  cp "$(dirname "$folder/training/$checkpoint")"/*.pdparams "$folder/" # SGPN's shape network has to lie beside
  cp "$folder/training/$checkpoint" "$folder/generator.pdparams"
}

export_little() { # the inference model of those weights, or of the weights the repository ships
  local PARAMS PARAM_FILE=$WEIGHTS_FILE folder=$DATA/$MODEL words
  [[ ! -s $folder/inference/inference.yml ]] || return 0
  mapfile -t PARAMS <"$WEIGHTS_FILE"
  read -ra words <<<"$(named 30 norm_export)"
  step "$folder/inference" "$PYTHON" "${words[@]}" "$(key 29)=$(named 37 infer_model)" "$(key 28)=$folder/inference"
}

# The weights of a model's deployments: infer_python.txt names shipped ones, train_infer_python.txt those of a few steps.
if [[ $MODE == whole_infer && $(head -n 1 "$PARAM_FILE") == "===train_params===" ]]; then
  WEIGHTS_FILE=$PARAM_FILE
else
  WEIGHTS_FILE=$(whole_infer_file)
fi
[[ -f $WEIGHTS_FILE ]] || die "$WEIGHTS_FILE: no such file"
little=no
! grep -q "^infer_model:$DATA/$MODEL/" "$WEIGHTS_FILE" || little=yes

forget_old
case $MODE in
  lite_train_* | whole_train_* | benchmark_train)
    [[ $MODE != whole_train_* ]] || echo "whole_train: put the aligned FFHQ faces where the configuration's data.root says"
    make_lite_data
    make_pictures
    make_start "$PARAM_FILE"
    ;;
  whole_infer)
    make_pictures
    if [[ $little == yes ]]; then
      make_lite_data
      train_little
    fi
    [[ $(head -n 1 "$1") == "===train_params===" ]] || export_little
    ;;
  paddle2onnx_infer | serving_infer | cpp_infer | klquant_whole_infer)
    make_pictures
    if [[ $little == yes ]]; then
      make_lite_data
      train_little
    fi
    [[ $MODE == serving_infer ]] || export_little # a service brings its own
    if [[ $MODE == serving_infer && -f deploy/serving_python/setup.sh ]]; then
      read -ra words <<<"$(named 5 trans_model)"
      mapfile -t -O "${#words[@]}" words < <(for line in 6 7 8 9 10; do argument "$(key $line)" "$(value $line)"; done)
      step "the serving environment" env PYTHON="$(command -v "$PYTHON")" bash deploy/serving_python/setup.sh "${words[@]:1}"
    fi
    ;;
  *) die "there is no mode $MODE" ;;
esac
