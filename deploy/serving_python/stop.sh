#!/usr/bin/env bash
# Stops the service: accepted requests finish, and no process is left.
#
#   bash deploy/serving_python/stop.sh [--port P]    without a port: every service that start.sh started here
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
RUN=${SERVING_HOME:-$ROOT/build/serving}/run
WAIT=${SERVING_STOP_WAIT:-75} # seconds; longer than drain_s of config.yml
PORT="*"
if (($#)); then
  [[ $1 == --port && $# == 2 && $2 =~ ^[0-9]+$ ]] || {
    echo "usage: stop.sh [--port P]" >&2
    exit 2
  }
  PORT=$2
fi

ours() { # whether this process is a service, and not another that got its number since
  { tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null | grep -q "serving_python[/.]\(web_service\|ops\)"
}

stop() { # stop PIDFILE
  local pid children child
  pid=$(cat "$1")
  if [[ ! $pid =~ ^[0-9]+$ ]] || ! ours "$pid"; then
    rm -f "$1"
    return
  fi
  children=$(cat "/proc/$pid/task/"*/children 2>/dev/null || true)
  kill -TERM "$pid" 2>/dev/null || true
  for ((i = 0; i < WAIT * 5; i++)); do
    ours "$pid" || break
    sleep 0.2
  done
  if ours "$pid"; then
    echo "stop.sh: process $pid did not stop within $WAIT s and was killed" >&2
    kill -KILL "$pid" 2>/dev/null || true
  fi
  for child in $children; do
    ours "$child" && kill -KILL "$child" 2>/dev/null || true
  done
  rm -f "$1"
  echo "stopped: process $pid"
}

found=""
for file in "$RUN"/service.$PORT.pid; do
  [[ -f $file ]] || continue
  found=yes
  stop "$file"
done
[[ -n $found ]] || echo "nothing to stop"
