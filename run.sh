#!/usr/bin/env bash
# Sets the project up if need be, and opens its command line: ./run.sh [serve|web|check|status|break|switch|…] …
#
# The set-up (a virtual environment with the project in it) is made once, and again when pyproject.toml has
# changed, the checkout has moved or the environment is broken. After that nothing here needs a network.
#
#   AOAI_GATEWAY_PYTHON   the Python to use (default: the newest tested one that is found)
#   AOAI_GATEWAY_VENV     the virtual environment's folder (default: .venv beside this file)
#   AOAI_GATEWAY_LOCK     the lock file to install from (default: requirements.lock, and requirements-dev.lock
#                         for the tests); none: the newest versions that pyproject.toml allows
#   PIP_*                 pip's own settings hold, an index of one's own for instance
#
# Written for bash 3.2, which is what macOS ships.
set -euo pipefail

say() { printf 'run.sh: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

# The checkout: where this file is, also when it is called through a symbolic link.
here=${BASH_SOURCE[0]}
while [ -L "$here" ]; do
    link=$(readlink "$here")
    case $link in /*) here=$link ;; *) here=$(dirname "$here")/$link ;; esac
done
root=$(cd "$(dirname "$here")" && pwd -P)

# setuptools writes the checkout's path in the locale's encoding, and Python reads it so: that of C and POSIX
# is ASCII.
case $root,${LC_ALL:-} in *[!\ -~]*,C | *[!\ -~]*,POSIX) export LC_ALL=C.UTF-8 ;; esac

venv=${AOAI_GATEWAY_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
python=$venv/bin/python
stamp=$venv/set-up-for

extras=
[ "${1:-}" = test ] && extras='[test]'

# What a finished set-up was made for, extras aside: this checkout, its dependencies, their locked versions.
locked=
for file in "$root"/requirements*.lock; do
    [ -f "$file" ] && locked=$locked$(<"$file")
done
wanted="$root $(printf '%s' "${AOAI_GATEWAY_LOCK:-}$(<"$root/pyproject.toml")$locked" | cksum)"

is_set_up() {
    local made_for='' made_extras=''
    { read -r made_for && read -r made_extras; } 2>/dev/null <"$stamp" || true
    [ "$made_for" = "$wanted" ] || return 1
    [ -z "$extras" ] || [ "$made_extras" = "$extras" ] || return 1
    # The Python it was made with may be gone since, or a package may have been taken out.
    "$python" -P -c '
import importlib.util, sys
sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))' \
        aoai_gateway mitmproxy pydantic yaml tiktoken tornado redis azure.identity azure.monitor.ingestion jwt jsonschema prometheus_client msgspec hiredis ${extras:+pytest} 2>/dev/null
}

# --- finding a Python ---------------------------------------------------------------------------------------

without_venv=

# Prints the real path of the interpreter $1 if it will do: 3.12 or newer, and able to make environments.
# (A pyenv shim runs, but may refuse; its error is of no interest here.)
will_do() {
    local found
    found=$("$1" -c '
import sys
if sys.version_info < (3, 12): sys.exit(1)
try: import ensurepip, venv
except ImportError: print("without venv"); sys.exit()
print(sys.executable)' 2>/dev/null) || return 1
    if [ "$found" = 'without venv' ]; then
        without_venv=$1
        return 1
    fi
    [ -n "$found" ] && printf '%s\n' "$found"
}

find_python() {
    local candidate
    if [ -n "${AOAI_GATEWAY_PYTHON:-}" ]; then
        will_do "$AOAI_GATEWAY_PYTHON" ||
            fail "AOAI_GATEWAY_PYTHON=$AOAI_GATEWAY_PYTHON is no Python >= 3.12 with the venv module."
        return
    fi
    # First the versions that the tests run on, then newer ones, then the Pythons that are not on PATH.
    for candidate in python3.13 python3.12 python3.14 python3 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python; do
        command -v "$candidate" >/dev/null 2>&1 && will_do "$candidate" && return
    done
    if command -v uv >/dev/null 2>&1 &&
        candidate=$(uv python find --no-project --no-python-downloads '>=3.12' 2>/dev/null); then
        will_do "$candidate" && return
    fi
    if [ -n "$without_venv" ]; then
        say "$without_venv is new enough, but cannot make virtual environments (Debian, Ubuntu: apt install python3-venv)."
    fi
    fail "no Python >= 3.12 was found on PATH, in pyenv or in uv.
Get one, for instance with one of
    apt install python3.12 python3.12-venv      brew install python@3.13
    pyenv install 3.13                          uv python install 3.13
or name yours: AOAI_GATEWAY_PYTHON=/path/to/python ./run.sh"
}

# --- installing ---------------------------------------------------------------------------------------------

install() {
    local lock=${AOAI_GATEWAY_LOCK:-requirements${extras:+-dev}.lock}
    local pip=("$python" -m pip install --quiet --disable-pip-version-check)
    if [ "$lock" = none ]; then
        "${pip[@]}" --upgrade --upgrade-strategy eager --editable "$root$extras"
        return
    fi
    case $lock in /*) ;; *) lock=$root/$lock ;; esac
    [ -f "$lock" ] || fail "the lock file $lock is missing."
    # Exactly the locked versions and nothing else: the build backend is one of them.
    "${pip[@]}" --require-hashes --requirement "$lock" &&
        "${pip[@]}" --no-deps --no-build-isolation --editable "$root"
}

# --- setting up ---------------------------------------------------------------------------------------------

set_up() {
    local base made_for='' made_extras=''
    base=$(find_python)

    # One set-up of this checkout at a time. The lock is on the file that descriptor 9 has open, so it holds
    # until the subshell around this function ends, however that happens. (Not every system has flock(1).)
    "$base" -c '
import fcntl, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
try: fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("run.sh: waiting for another set-up of this checkout to end", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError: pass  # a file system without locks'
    # What was waited for may have been just this.
    if is_set_up; then return; fi

    { read -r made_for && read -r made_extras; } 2>/dev/null <"$stamp" || true
    # The tests' packages stay once they are there.
    [ -n "$extras" ] || extras=$made_extras
    if ! [ -x "$python" ] || ! "$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
        say "making $venv with $base"
        "$base" -m venv --clear "$venv" || fail "$base could not make $venv."
    elif [ -n "$made_for" ] && [ "${made_for% * *}" != "$root" ]; then
        # A half-made one, or the checkout has moved, and the environment's scripts name the old place.
        say "making $venv anew with $base"
        "$base" -m venv --clear "$venv" || fail "$base could not make $venv."
        made_for=
    fi

    say "installing the project and what it needs (once; it takes a minute)"
    # Until this is done, whoever finds the environment must take it for half-made.
    printf 'half-made\n' >"$stamp"
    if ! install; then
        # pip resolves before it changes anything, so what was there before still works.
        if [ -n "$made_for" ]; then printf '%s\n%s\n' "$made_for" "$made_extras" >"$stamp"; else rm -f "$stamp"; fi
        fail "the installation failed, see above. A network, or PIP_INDEX_URL for an index of your own, is needed."
    fi
    printf '%s\n%s\n' "$wanted" "$extras" >"$stamp"
}

if ! is_set_up; then
    (set_up) 9<"$root/pyproject.toml"
fi
# -P: a file in the current folder must not stand in for a module of the same name.
exec "$python" -P -m aoai_gateway.app.cli "$@"
