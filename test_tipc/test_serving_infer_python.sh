#!/usr/bin/env bash
# The service: started, asked by its own client, compared, stopped; nothing of it may be left.
#
#   bash test_tipc/test_serving_infer_python.sh test_tipc/configs/<MODEL>/serving_infer_python.txt serving_infer
set -euo pipefail
# shellcheck source=common_func.sh
source "$(dirname "$0")/common_func.sh"

begin "${1:-}" "===serving_params===" "${2:-}" results_serving.log
[[ $MODE == serving_infer ]] || die "this script has no mode $MODE"

CONVERT=$(named 5 trans_model)
MODEL_DIR=$(value 9)
SERVING_DIR=$(named 11 serving_dir)
SERVICE=$(named 12 web_service)
CLIENT=$(named 14 pipline)
IMAGES=${TIPC_PICTURES:-test_tipc/data/pictures}
PORT=${TIPC_PORT:-18099}
WAIT=${TIPC_SERVER_WAIT:-120} # seconds a server may take to answer
SERVER=""

[[ -d $SERVING_DIR ]] || not_run "$SERVING_DIR is not part of this checkout"

answers() { # whether something answers GET /healthz
  local code
  code=$("$PYTHON" - "$PORT" <<'PY'
import http.client, sys
try:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=5)
    connection.request("GET", "/healthz")
    print(connection.getresponse().status)
except OSError:
    print("no answer")
PY
  )
  [[ $code == 200 ]]
}

stop_server() { # ends the server and everything it started: it runs in a process group of its own
  [[ -n $SERVER ]] || return 0
  [[ ! -f $SERVING_DIR/stop.sh ]] || bash "$SERVING_DIR/stop.sh" --port "$PORT" >>"$OUTPUT/stop.log" 2>&1 || true
  kill -TERM -- "-$SERVER" 2>/dev/null || true
  local waited
  for ((waited = 0; waited < 20; waited++)); do
    kill -0 -- "-$SERVER" 2>/dev/null || break
    sleep 0.5
  done
  kill -KILL -- "-$SERVER" 2>/dev/null || true
  SERVER=""
}
trap stop_server EXIT

WHOLE=$(whole_infer_file)
KEPT=$(reference_of "$WHOLE" whole_infer)
STEPS=(start ask stop)
[[ $CONVERT == null ]] || STEPS+=(convert)
[[ ! -f $KEPT ]] || STEPS+=(reference)
expect ${#STEPS[@]}

if [[ $CONVERT != null ]]; then
  read -ra words <<<"$CONVERT"
  mapfile -t options < <(for line in 6 7 8 9 10; do argument "$(key $line)" "$(value $line)"; done)
  execute "$OUTPUT/trans_model.log" "$PYTHON" "${words[@]}" "${options[@]}"
  succeed
fi

! answers || die "port $PORT is taken; set TIPC_PORT"
read -ra words <<<"$SERVICE"
[[ ${words[0]} != *.sh ]] || words=(bash "${words[@]}")
[[ ${words[0]} != *.py ]] || words=("$PYTHON" "${words[@]}")
for index in "${!words[@]}"; do
  [[ ! -f $SERVING_DIR/${words[index]} ]] || words[index]=$SERVING_DIR/${words[index]}
done
LAST_COMMAND="${words[*]} --port $PORT" LAST_LOG=$OUTPUT/server.log
MODEL_OPTION=()
[[ $MODEL_DIR == null ]] || MODEL_OPTION=(--model_dir "$MODEL_DIR")
setsid "${words[@]}" --port "$PORT" "${MODEL_OPTION[@]}" >"$LAST_LOG" 2>&1 </dev/null &
SERVER=$!
ended=False
for ((turn = 0; turn < WAIT * 2; turn++)); do
  ! answers || break
  if [[ $ended == False ]] && ! kill -0 "$SERVER" 2>/dev/null; then
    ended=True # a start script may leave the service behind and end well
    wait "$SERVER" || fault "the server ended before it answered: $(last_line "$LAST_LOG")"
  fi
  sleep 0.5
done
answers || fault "the server did not answer within $WAIT s: $(last_line "$LAST_LOG")"
succeed

read -ra words <<<"$CLIENT"
[[ ! -f $SERVING_DIR/${words[0]} ]] || words[0]=$SERVING_DIR/${words[0]}
execute "$OUTPUT/client.log" "$PYTHON" "${words[@]}" --url "http://127.0.0.1:$PORT/gfpgan/prediction" \
  --image_dir "$IMAGES" --save_dir "$OUTPUT/restored"
check "$PYTHON" test_tipc/checks.py results --dir "$OUTPUT/restored" --inputs "$IMAGES"
succeed
[[ ! -f $KEPT ]] || same_pictures "$OUTPUT/compare_reference.log" "$KEPT" "$OUTPUT/client.log" fp32

stop_server
LAST_COMMAND="stopping the server" LAST_LOG=$OUTPUT/server.log
! answers || fault "the server still answers after it was stopped"
succeed
finish
