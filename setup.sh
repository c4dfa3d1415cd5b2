#!/bin/sh
# Make .venv, or the folder in VENV, or bring it up to a file of requirements: setup.sh PYTHON REQUIREMENTS
set -eu
python=$1 requirements=$2 venv=${VENV:-.venv}
say() { printf '%s\n' "$*" >&2; }

if ! command -v "$python" >/dev/null 2>&1; then
    say "setup: there is no '$python'. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3 ..."
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "setup: $("$python" --version) is too old; PostFacta needs Python 3.11 or newer."
    for newer in python3.14 python3.13 python3.12 python3.11; do
        command -v "$newer" >/dev/null 2>&1 && say "setup: this machine has one: make PYTHON=$newer ..." && break
    done
    exit 1
fi
if [ ! -x "$venv"/bin/python ]; then
    say "setup: making $venv with $("$python" --version)"
    rm -rf "$venv"
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        say "setup: Python cannot make a virtual environment here. On Debian and Ubuntu: apt-get install python3-venv"
        exit 1
    fi
fi
say "setup: installing $requirements (under a minute with a warm cache, a few without)"
install() {
    # uv, if UV names one, takes seconds. It reads no settings of pip, so what it fails at pip tries.
    [ -n "${UV:-}" ] && "$UV" pip install -q --python "$venv"/bin/python --require-hashes -r "$requirements" && return
    "$venv"/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r "$requirements"
}
if ! install; then
    say "setup: pip could not install $requirements; its own words stand above."
    say "setup: no space left? See 'df -h .'. No way to the package index? Set PIP_INDEX_URL. Then run make again."
    exit 1
fi
"$venv"/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
