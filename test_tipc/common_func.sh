#!/usr/bin/env bash
# Functions shared by the TIPC drivers. Source it: it runs nothing by itself.
#
# A chain ends in one of three ways:
#   exit code 0    every command and every check passed, and their number is the number the parameter file asks for
#   exit code 1    the first thing that is wrong, in a line of its own
#   exit code 77   "not run on this machine": the chain needs hardware or a library that is not here; never a pass
#
# No text of a parameter file is evaluated: commands are split at spaces into an array and run as they are.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT" || exit 1
readonly NOT_RUN=77
LIMIT=${TIPC_LIMIT:-3600} # seconds one command may take

PARAMS=()       # lines of the parameter file
PARAM_FILE=""   # its path
MODE=""         # lite_train_lite_infer, ...
MODEL=""        # model_name of the file
OUTPUT=""       # test_tipc/output/<model>/<mode>
STATUS_LOG=""   # one line per command
LAST_COMMAND="" # what `execute` ran last, for the lines of `succeed` and `fault`
LAST_LOG=""
SKIPPED=0  # combinations left out because this machine cannot run them
EXPECTED=0 # commands the parameter file asks for, known before the first one runs

# --- ends --------------------------------------------------------------------------------------------------------------

die() { # die SENTENCE: something is wrong before or after the commands
  printf 'TIPC failed: %s\n' "$*" >&2
  [[ -z $STATUS_LOG ]] || printf 'TIPC failed: %s\n' "$*" >>"$STATUS_LOG"
  exit 1
}

not_run() { # not_run REASON: the whole chain cannot be run here
  printf 'not run on this machine: %s\n' "$*" | record
  exit $NOT_RUN
}

left_out() { # left_out REASON: this combination cannot be run here; it is not counted
  SKIPPED=$((SKIPPED + 1))
  printf 'not run on this machine: %s\n' "$*" | record
}

record() { # copies its input to the terminal and the status log
  if [[ -n $STATUS_LOG ]]; then tee -a "$STATUS_LOG"; else cat; fi
}

execute() { # execute LOG COMMAND...: runs it, its output goes to LOG; a failure ends the chain
  LAST_LOG=$1
  shift
  LAST_COMMAND="$*"
  mkdir -p "$(dirname "$LAST_LOG")"
  local status=0
  timeout --kill-after=30 "$LIMIT" "$@" >"$LAST_LOG" 2>&1 </dev/null || status=$?
  case $status in
    0) ;;
    124 | 137) fault "took longer than $LIMIT s or was killed (exit code $status)" ;;
    126 | 127) fault "cannot be run (exit code $status)" ;;
    *) fault "exit code $status: $(last_line "$LAST_LOG")" ;;
  esac
}

last_line() { # last_line LOG: what a program said last, which is why it ended; of processes of a launcher, the process's own
  local line logs=("$1")
  mapfile -t -O 1 logs < <(find "${1%.log}/ranks" -name 'workerlog.*' 2>/dev/null | sort -r)
  for line in "${logs[@]}"; do line=$(grep -vE '^[[:space:]]*$|^LAUNCH ' "$line" | tail -n 1 | cut -c 1-300) && [[ -z $line ]] || break; done
  printf '%s' "${line:-it printed nothing}"
}

check() { # check COMMAND...: a check of what the last command left; its output joins the log, its last line is the reason
  local output
  if output=$("$@" 2>&1); then
    [[ -z $output ]] || printf '%s\n' "$output" >>"$LAST_LOG"
  else
    printf '%s\n' "$output" >>"$LAST_LOG"
    fault "$(tail -n 1 <<<"$output")"
  fi
}

compare() { # compare LOG COMMAND...: a check that is a step of its own
  LAST_LOG=$1
  shift
  LAST_COMMAND="$*"
  : >"$LAST_LOG"
  check "$@"
  succeed
}

needs_file() { # needs_file PATH...: the last command must have left these, not empty
  local path
  for path in "$@"; do
    [[ -s $path ]] || fault "left no $path, or an empty one"
  done
}

succeed() { # the last command and its checks passed
  printf ' Run successfully with command - %s - %s - %s \n' "$MODEL" "$LAST_COMMAND" "$LAST_LOG" | record
}

fault() { # fault REASON: the last command, or a check of it, did not pass: the chain ends
  printf ' Run failed with command - %s - %s - %s \n' "$MODEL" "$LAST_COMMAND" "$LAST_LOG" | record
  printf 'TIPC failed: %s\n' "$*" | record >&2
  [[ ! -s $LAST_LOG ]] || tail -n 15 "$LAST_LOG" | sed 's/^/  | /' >&2
  exit 1
}

expect() { # expect NUMBER: how many commands the parameter file asks for, said before the first one runs
  EXPECTED=$1
  ((EXPECTED > 0)) || not_run "none of the combinations of $PARAM_FILE"
  printf 'expected: %s commands (%s, %s)\n' "$EXPECTED" "$MODEL" "$MODE" | record
}

finish() { # the number of passed commands must be the number that was expected
  local count
  count=$(grep -c '^ Run successfully' "$STATUS_LOG" || true)
  ((EXPECTED > 0)) || die "the driver did not say how many commands it expects"
  ((count == EXPECTED)) || die "$count commands passed, $EXPECTED were expected"
  printf 'TIPC passed: %s of %s commands (%s, %s; %s combinations not run on this machine)\n' \
    "$count" "$EXPECTED" "$MODEL" "$MODE" "$SKIPPED" | record
}

# --- reference numbers --------------------------------------------------------------------------------------------------

tolerance_of() { # tolerance_of PRECISION: how far a number of a picture in [0, 1] may be from the reference's
  case $1 in
    fp32) echo 1e-3 ;;
    fp16) echo 2e-3 ;;
    bf16) echo 8e-3 ;; # two grey levels
    int8) echo 2e-2 ;; # five
    *) die "$PARAM_FILE: there is no precision $1" ;;
  esac
}

reference_of() { # reference_of PARAMETER_FILE MODE: where the numbers of its pictures are kept
  printf 'test_tipc/results/%s_%s_%s.txt' "$(basename "$(dirname "$1")")" "$(basename "$1" .txt)" "$2"
}

whole_infer_file() { # the parameter file that says which weights a deployment of this model uses, and how they are exported
  local folder
  folder=$(dirname "$PARAM_FILE")
  if [[ -f $folder/infer_python.txt ]]; then echo "$folder/infer_python.txt"; else echo "$folder/train_infer_python.txt"; fi
}

same_pictures() { # same_pictures LOG REFERENCE LOG_PATTERN PRECISION [NAMES]: numbers of pictures agree; a step of its own
  local tolerance
  tolerance=$(tolerance_of "$4")
  compare "$1" "$PYTHON" test_tipc/compare_results.py --gt_file "$2" --log_file "$3" \
    --metrics "${5:-picture/*}" --atol "$tolerance" --rtol "$tolerance"
  tail -n 1 "$LAST_LOG" | record
}

# --- the parameter file ------------------------------------------------------------------------------------------------

read_params() { # read_params FILE HEADER
  PARAM_FILE=$1
  [[ -f $PARAM_FILE ]] || die "$PARAM_FILE: no such file"
  mapfile -t PARAMS <"$PARAM_FILE"
  local number
  for number in "${!PARAMS[@]}"; do
    [[ ${PARAMS[number]} =~ [^[:space:]] ]] ||
      die "$PARAM_FILE: line $((number + 1)) is blank, which would shift every line after it; write ##"
    [[ ${PARAMS[number]} != *$'\r' ]] || die "$PARAM_FILE: line $((number + 1)) ends in a carriage return"
  done
  [[ ${PARAMS[0]:-} == "$2" ]] || die "$PARAM_FILE: line 1 must be $2, found ${PARAMS[0]:-nothing}"
}

key() { # key LINE
  local line=${PARAMS[$1 - 1]:-}
  [[ $line == *:* ]] || die "$PARAM_FILE: line $1 must be key:value, found ${line:-nothing}"
  printf '%s' "${line%%:*}"
}

value() { # value LINE: the second field
  local line=${PARAMS[$1 - 1]:-}
  [[ $line == *:* ]] || die "$PARAM_FILE: line $1 must be key:value, found ${line:-nothing}"
  line=${line#*:}
  printf '%s' "${line%%:*}"
}

named() { # named LINE NAME: the value of a line whose key has to be NAME
  local found
  found=$(key "$1") || exit 1
  [[ $found == "$2" ]] || die "$PARAM_FILE: line $1 must be $2:..., found $found:..."
  value "$1"
}

for_mode() { # for_mode LINE: the value of `mode=value|mode=value` for this mode, or the whole value
  local text part
  text=$(value "$1") || exit 1
  if [[ $text != *=* ]]; then
    printf '%s' "$text"
    return
  fi
  local IFS='|'
  for part in $text; do
    if [[ ${part%%=*} == "$MODE" ]]; then
      printf '%s' "${part#*=}"
      return
    fi
  done
  die "$PARAM_FILE: line $1 has no value for the mode $MODE"
}

items() { # items TEXT: a|b|c, one a line
  local - IFS='|' part
  set -f
  for part in $1; do printf '%s\n' "$part"; done
}

count_items() { items "$1" | wc -l; }

argument() { # argument KEY VALUE: `KEY=VALUE`, or nothing when one of them is null or empty
  [[ -z $1 || -z $2 || $1 == null || $2 == null ]] || printf '%s=%s\n' "$1" "$2"
}

# `x=$(die ...)` leaves only the subshell. Every driver therefore runs with `set -e`, which a failed assignment ends.

begin() { # begin FILE HEADER MODE RESULTS_LOG: reads the file and empties the chain's output folder
  [[ -n ${3:-} ]] || die "usage: bash $0 test_tipc/configs/<MODEL>/<FILE>.txt <MODE>"
  MODE=$3
  read_params "$1" "$2"
  MODEL=$(named 2 model_name)
  local folder
  folder=$(basename "$(dirname "$PARAM_FILE")")
  [[ $folder == "$MODEL" ]] || die "$PARAM_FILE: model_name is $MODEL, but the file is in the folder of $folder"
  OUTPUT=test_tipc/output/$MODEL/$MODE
  rm -rf "$OUTPUT"
  mkdir -p "$OUTPUT"
  STATUS_LOG=$OUTPUT/$4
  : >"$STATUS_LOG"
  PYTHON=$(named 3 python)
  command -v "$PYTHON" >/dev/null || die "$PARAM_FILE: line 3: there is no program $PYTHON"
  needs_hardware "$(basename "$PARAM_FILE")"
}

# --- the machine -------------------------------------------------------------------------------------------------------

needs_hardware() { # needs_hardware FILE_NAME: X_train_<hardware>_..., X_infer_<hardware>: the parts of a name after linux_
  case $1 in
    *linux_gpu*) has_gpu || not_run "$1 needs an NVIDIA GPU and paddlepaddle-gpu" ;;
    *linux_npu*) [[ -e /dev/davinci0 ]] || not_run "$1 needs an Ascend NPU" ;;
    *linux_xpu*) [[ -e /dev/xpu0 ]] || not_run "$1 needs a Kunlun XPU" ;;
    *arm_cpu* | *lite_*cpp*) command -v adb >/dev/null || not_run "$1 needs an ARM device behind adb" ;;
  esac
}

has_gpu() { # a GPU, and a Paddle that can use it
  [[ -n ${TIPC_HAS_GPU:-} ]] || {
    TIPC_HAS_GPU=no
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU &&
      "$PYTHON" -c 'import sys, paddle; sys.exit(not paddle.is_compiled_with_cuda())' 2>/dev/null; then
      TIPC_HAS_GPU=yes
    fi
  }
  [[ $TIPC_HAS_GPU == yes ]]
}

has_bfloat16() { grep -qE '\b(avx512_bf16|amx_bf16)\b' /proc/cpuinfo 2>/dev/null; }

# --- what the models of this repository are called in configurations -----------------------------------------------------

arch_of() { # arch_of MODEL: the architecture that a run of this model has to show
  case $1 in
    GFPGAN | GFPGAN_lite) echo gfpgan ;;
    GFPGAN_mobile) echo gfpgan_mobile ;;
    HiFaceGAN) echo hifacegan ;;
    SGPN) echo sgpn ;;
    *) die "$PARAM_FILE: there is no model $1" ;;
  esac
}
