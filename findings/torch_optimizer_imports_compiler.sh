#!/usr/bin/env bash
# torch 2.13.0 (CPU): making the first optimizer of a process imports torch's compiler, though nothing is compiled.
# Expected: torch.optim.SGD keeps a list of tensors; making one costs microseconds, as torch/_compile.py says that it
# imports "torch._dynamo lazily" so that "it is only imported when it is needed".
# Seen: Optimizer.__init__ calls add_param_group, which is wrapped by that lazy import, so the first optimizer of each
# process imports torch._dynamo and its several hundred modules: not much less processor time than `import torch` took.
# A script that trains for a second, and every worker of a test suite, waits for it.
# Fails (exit 1) when that changes.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cat > "$work/first.py" <<'PY'
import sys, time
start = time.process_time()
import torch
imported, before = time.process_time() - start, len(sys.modules)
weight = torch.nn.Parameter(torch.zeros(2))

start = time.process_time()
torch.optim.SGD([weight], lr=0.1)
made, modules = time.process_time() - start, len(sys.modules) - before
print(f'torch {torch.__version__}: import torch {imported:.1f} CPU s; the first optimizer {made:.1f}, {modules} modules')
assert 'torch._dynamo' in sys.modules and modules > 300
PY
"$work/env/bin/python" "$work/first.py"
