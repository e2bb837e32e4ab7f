#!/usr/bin/env bash
# Runs the driver that belongs to a parameter file: bash test_tipc/run.sh <FILE> <MODE>
# What it is for is told by the first line of the file and by the mode.
set -euo pipefail

file=${1:?usage: bash test_tipc/run.sh test_tipc/configs/<MODEL>/<FILE>.txt <MODE>}
mode=${2:?usage: bash test_tipc/run.sh test_tipc/configs/<MODEL>/<FILE>.txt <MODE>}
here=$(dirname "$0")
[[ -f $file ]] || {
  echo "TIPC failed: $file: no such file" >&2
  exit 1
}
case "$(head -n 1 "$file"):$mode:$(basename "$file")" in
  "===train_params===":benchmark_train:*) driver=benchmark_train.sh ;;
  "===train_params===":*:*dy2static*) driver=test_train_dy2static_python.sh ;;
  "===train_params===":*) driver=test_train_inference_python.sh ;;
  "===paddle2onnx_params===":*) driver=test_paddle2onnx.sh ;;
  "===serving_params===":*) driver=test_serving_infer_python.sh ;;
  "===cpp_infer_params===":*) driver=test_inference_cpp.sh ;;
  "===ptq_params===":*) driver=test_ptq_inference_python.sh ;;
  "===lite_params===":*)
    echo "not run on this machine: $file needs Paddle Lite's opt tool and an ARM device behind adb"
    exit 77
    ;;
  *)
    echo "TIPC failed: $file: line 1 belongs to no driver" >&2
    exit 1
    ;;
esac
exec bash "$here/$driver" "$file" "$mode"
