#!/usr/bin/env bash
# Starts the service and returns once it can restore photos. setup.sh first.
#
#   bash deploy/serving_python/start.sh [--port P] [--rpc_port P] [--host H] [--model_dir DIR] [--config FILE] [--foreground]
#
# HTTP on P (default 18080), gRPC on the next port, both on loopback. Logs and process ids: build/serving/run.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
readonly HERE ROOT
SERVING=${SERVING_HOME:-$ROOT/build/serving}
VENV=${SERVING_VENV:-$ROOT/build/serving/venv}
RUN=$SERVING/run
PORT="" FOREGROUND="" MODELS=$SERVING/models CONFIG=$HERE/config.yml
ARGUMENTS=()
WAIT=${SERVING_WAIT:-120} # seconds until the service must be ready

die() {
  echo "start.sh: $*" >&2
  exit 2
}

while (($#)); do
  case $1 in
    --foreground) FOREGROUND=yes ;;
    --port=* | --rpc_port=* | --host=* | --model_dir=* | --config=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      continue
      ;;
    --port | --rpc_port | --host | --model_dir | --config)
      (($# > 1)) || die "$1 wants a value"
      case $1 in
        --port) PORT=$2 ARGUMENTS+=(--port "$2") ;;
        --model_dir) MODELS=$2 ;;
        --config) CONFIG=$2 ;;
        *) ARGUMENTS+=("$1" "$2") ;;
      esac
      shift
      ;;
    *) die "unknown argument $1" ;;
  esac
  shift
done
[[ -x $VENV/bin/python ]] || die "the serving environment is not there; run: bash deploy/serving_python/setup.sh"
if [[ -z $PORT ]]; then
  PORT=$("$VENV/bin/python" -c 'import sys, yaml; print((yaml.safe_load(open(sys.argv[1])) or {}).get("http_port", 18080))' "$CONFIG")
fi
[[ $PORT =~ ^[0-9]+$ ]] || die "--port: $PORT is no port"
COMMAND=("$VENV/bin/python" "$HERE/web_service.py" --config "$CONFIG" --model_dir "$MODELS" ${ARGUMENTS[@]+"${ARGUMENTS[@]}"})
[[ -z $FOREGROUND ]] || exec "${COMMAND[@]}"

mkdir -p "$RUN"
LOG=$RUN/service.$PORT.log PIDFILE=$RUN/service.$PORT.pid
if [[ -f $PIDFILE ]] && { tr '\0' ' ' <"/proc/$(cat "$PIDFILE")/cmdline"; } 2>/dev/null | grep -q "serving_python/web_service"; then
  die "a service runs on port $PORT already (process $(cat "$PIDFILE")); stop.sh --port $PORT ends it"
fi
# In the caller's process group, so that ending that group ends the service too; the hang-up of a terminal does not.
nohup "${COMMAND[@]}" --log "$LOG" </dev/null >"$RUN/service.$PORT.out" 2>&1 &
PID=$!
echo "$PID" >"$PIDFILE"
for ((i = 0; i < WAIT * 5; i++)); do
  if ! kill -0 "$PID" 2>/dev/null; then
    rm -f "$PIDFILE"
    tail -n 5 "$RUN/service.$PORT.out" >&2
    grep -h '"worker"' "$LOG" 2>/dev/null | tail -n 5 >&2 || true
    die "the service ended before it was ready (logs: $LOG)"
  fi
  if grep -q "\"event\": \"ready\", \"pid\": .*, \"front\": $PID}" "$LOG" 2>/dev/null; then
    echo "ready: http://127.0.0.1:$PORT (page, POST /gfpgan/prediction), logs: $LOG"
    exit 0
  fi
  sleep 0.2
done
kill "$PID" 2>/dev/null || true
die "the service was not ready within $WAIT s (logs: $LOG)"
