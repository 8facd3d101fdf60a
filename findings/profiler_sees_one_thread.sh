#!/usr/bin/env bash
# torch 2.13.0 (CPU): torch.profiler leaves out what other Python threads compute, and says nothing about it.
# Expected: a profile of a block lists the operations that ran in it; a server or a trainer that works in several
# threads finds all of its products, or a remark that some were left out.
# Seen: of eight products of matrices, seven in a thread that starts and ends inside of the block, the table counts
# one, without a remark. `profile_all_threads` of the experimental configuration finds all eight.
# Fails (exit 1) when that changes.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cat > "$work/threads.py" <<'PY'
import threading, torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import profile

matrix = torch.randn(400, 400)
def counted(**how):
    with profile(**how) as profiler:
        other = threading.Thread(target=lambda: [matrix @ matrix for _ in range(7)])
        other.start(); other.join()
        matrix @ matrix
    return sum(event.count for event in profiler.key_averages() if event.key == 'aten::mm')

usual, every = counted(), counted(experimental_config=_ExperimentalConfig(profile_all_threads=True))
print(f'torch {torch.__version__}: of 8 products the profile lists {usual}; with profile_all_threads {every}')
assert usual == 1 and every == 8
PY
"$work/env/bin/python" "$work/threads.py"
