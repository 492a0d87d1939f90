#!/usr/bin/env bash
# Makes .venv and installs gankd from this folder (editable) with the pinned versions: install.sh [EXTRA]
#
# PYTHON       interpreter; default: the first of python3.11, python3, ... that is new enough
# TORCH_INDEX  package index for torch (another CUDA version, ROCm, CPU on a machine with a GPU);
#              default: the CPU build on Linux without an NVIDIA GPU, otherwise the build that pip finds
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:-}
constraints=requirements/constraints.txt
cpu_index=https://download.pytorch.org/whl/cpu

fail() {
    echo "gankd: $*" >&2
    exit 1
}
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
pip() { .venv/bin/python -m pip --disable-pip-version-check -qq "$@"; }

choose_python() {
    # 3.11 first: the pinned versions are tested with it.
    for python in ${PYTHON:-python3.11 python3 python3.12 python3.13 python3.14}; do
        if is_new_enough "$python"; then return; fi
    done
    local found=${PYTHON:-python3}
    fail "needs Python 3.11 or newer, found $found = $(python_version "$found" || echo none);" \
        "remedy: make PYTHON=/path/to/python3.11"
}

make_venv() {
    if [ "$(python_version .venv/bin/python)" != "$(python_version "$python")" ]; then
        echo "gankd: making .venv with $python ($(python_version "$python"))"
        "$python" -m venv --clear .venv ||
            fail "$python cannot make virtual environments; remedy on Debian and Ubuntu:" \
                "apt install python$(python_version "$python")-venv"
    fi
}

install_torch() {
    local torch
    torch=$(grep '^torch==' "$constraints")
    if [ -n "${TORCH_INDEX:-}" ]; then
        echo "gankd: installing $torch from $TORCH_INDEX"
        pip install --no-deps --index-url "$TORCH_INDEX" "$torch"
    elif [ "$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then
        # On Linux the build on PyPI is for CUDA: 3 GB. Asking for "+cpu" by name never installs that one.
        # PyTorch's own index is contacted only if pip's indexes do not have the CPU build.
        echo "gankd: installing $torch, CPU build (no NVIDIA GPU found)"
        local first_try
        first_try=$(pip install --no-deps "$torch+cpu" 2>&1) ||
            pip install --no-deps --retries 2 --index-url "$cpu_index" "$torch+cpu" ||
            fail "no CPU build of $torch for $python on pip's indexes (${first_try##*$'\n'})" \
                "or $cpu_index; remedy: make PYTHON=python3.11 or make TORCH_INDEX=<package index>"
    fi
}

choose_python
make_venv
install_torch
echo "gankd: installing gankd${extra:+ with $extra tools}"
pip install --constraint "$constraints" --editable ".${extra:+[$extra]}"
