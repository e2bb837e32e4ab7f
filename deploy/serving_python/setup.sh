#!/usr/bin/env bash
# Makes the serving environment and lays the exported networks ready. Run it again whenever weights or requirements change.
#
#   bash deploy/serving_python/setup.sh [-c configs/gfpgan_mobile.yaml] [--weights FILE]
#
# PYTHON=...          interpreter of the main environment, which exports (default: .venv, else python; made when missing)
# SERVING_PYTHON=...  interpreter the serving environment is made with (default: Python 3.9, else 3.10 to 3.12)
# SERVING_VENV=...    where (default: build/serving/venv)
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly VENV=${SERVING_VENV:-build/serving/venv}

die() {
  echo "setup.sh: $*" >&2
  exit 1
}

runs() { # runs VERSIONS INTERPRETER: whether it starts, is one of these versions, and can make environments
  "$2" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] not in '$1'.split())" >/dev/null 2>&1
}

find_python() { # prints the interpreter to make the serving environment with
  local name version
  if [[ -n ${SERVING_PYTHON:-} ]]; then
    runs "3.9 3.10 3.11 3.12" "$SERVING_PYTHON" || die "SERVING_PYTHON=$SERVING_PYTHON: not a Python 3.9 to 3.12 with venv"
    echo "$SERVING_PYTHON"
    return
  fi
  for version in 3.9 3.11 3.12 3.10; do
    name=python$version
    if command -v "$name" >/dev/null && runs "$version" "$name"; then
      "$name" -c 'import sys; print(sys.executable)'
      return
    fi
    # A shim of pyenv is there but asleep unless a version is chosen.
    if command -v pyenv >/dev/null; then
      while read -r name; do
        name=$(pyenv root)/versions/$name/bin/python
        if runs "$version" "$name"; then
          echo "$name"
          return
        fi
      done < <(pyenv versions --bare 2>/dev/null | grep "^${version//./\\.}\\." || true)
    fi
  done
  die "no Python 3.9 to 3.12 with venv was found; name one: SERVING_PYTHON=/path/to/python"
}

exports() { # whether this interpreter has what the export needs
  "$1" -c 'import paddle, pydantic, cv2, yaml' >/dev/null 2>&1
}

find_main() { # prints the interpreter of the main environment
  local name
  for name in ${PYTHON:-.venv/bin/python python python3}; do
    if command -v "$name" >/dev/null && exports "$name"; then
      command -v "$name"
      return
    fi
  done
  [[ -z ${PYTHON:-} ]] || die "PYTHON=$PYTHON lacks requirements.txt"
  make --no-print-directory install >&2
  echo .venv/bin/python
}

BASE=$(find_python)
VERSION=$("$BASE" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [[ $VERSION == 3.9 ]]; then
  FILES=(requirements-serving.txt constraints-serving.txt)
else
  FILES=(requirements-serving-py310.txt)
fi
WANTED=$(cat "${FILES[@]}" | cksum)-$VERSION
if [[ $(cat "$VENV/.ready" 2>/dev/null || true) != "$WANTED" ]]; then
  echo "serving environment: $VENV, Python $VERSION (1.2 GB; a minute or two)"
  rm -rf "$VENV"
  mkdir -p "$(dirname "$VENV")"
  "$BASE" -m venv "$VENV"
  PIP=("$VENV/bin/python" -m pip install --disable-pip-version-check --quiet)
  if [[ $VERSION == 3.9 ]]; then
    "${PIP[@]}" -r requirements-serving.txt -c constraints-serving.txt
    "${PIP[@]}" --no-deps paddle-serving-app==0.9.0
  else
    "${PIP[@]}" -r requirements-serving-py310.txt
    "${PIP[@]}" --no-deps paddle-serving-server==0.9.0 paddle-serving-app==0.9.0
  fi
  echo "$WANTED" >"$VENV/.ready"
fi

MAIN=$(find_main)
"$MAIN" deploy/serving_python/prepare_models.py --output build/serving/models "$@"
echo "ready: bash deploy/serving_python/start.sh"
