#!/usr/bin/env bash
# black 26.10.1: --line-ranges rewrites a one-line `try:` that lies outside of the range.
# Expected: "Black will try its best to only format these lines", so lines outside of the range stay as they are, and the
# file stays valid. Without --line-ranges the same files are formatted well.
# Seen: `try: return open(path)` two lines below the range becomes `try:return open(path)`; where a block follows on lines
# of its own (`finally:`), the same loss leaves code that black itself refuses: "INTERNAL ERROR … produced invalid code".
# So an editor or a pre-commit hook that formats changed lines only stumbles over functions that nobody touched.
# Fails (exit 1) when that changes.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check black==26.10.1
cat > "$work/outside.py" <<'PY'
def opened(path):
    try: return open(path)
    except OSError: return None


def total(values):
    return sum(values)
PY
cat > "$work/refused.py" <<'PY'
def opened(path):
    name = str(path)+'.gz'
    try: value = open(name)
    finally:
        print(name)
    return value
PY
cd "$work"
env/bin/black --version
env/bin/black --quiet --line-ranges=1-1 --diff outside.py | grep '^[-+] ' | tee changed || true
env/bin/black --line-ranges=2-2 --diff refused.py 2>&1 | grep -o 'INTERNAL ERROR.*invalid code' | tee refused || true
env/bin/black --quiet --check refused.py && exit 1             # unformatted, and valid as a whole:
env/bin/black --quiet refused.py && env/bin/python -m py_compile refused.py
grep -q '^+    try:return open(path)' changed && [ -s refused ]
