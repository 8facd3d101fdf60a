#!/usr/bin/env bash
# datasets 5.2.0: a stream forgets the state that was loaded into it when its format is set afterwards.
# Expected: load_state_dict "will restart directly from" the saved example; with_format changes only how rows come out
# (IterableDataset is documented to be resumable also with transformations, and nothing is raised or warned).
# Seen: a stream whose format is set after load_state_dict starts again at the first row, so rows come twice; loading
# the state after the last transformation goes on where it should. A job that resumes a stream trains on rows again, in
# silence: 300 rows read, of which 100 before the interruption, give 300 more instead of 200.
# Fails (exit 1) when that changes.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0
cat > "$work/resume.py" <<'PY'
import datasets
def stream():
    rows = datasets.Dataset.from_dict(dict(number=list(range(300))))
    return rows.to_iterable_dataset(num_shards=3)

first = stream().with_format('arrow')
batches = first.iter(50)
for _ in range(2): next(batches)                               # 100 rows, then the process ends
state = first.state_dict()

after = stream().with_format('arrow')
after.load_state_dict(state)
before = stream()
before.load_state_dict(state)
before = before.with_format('arrow')
left = {name: sum(len(batch) for batch in rows.iter(50)) for name, rows in
        {'state loaded after with_format': after, 'state loaded before it': before}.items()}
print('datasets', datasets.__version__, left)
assert left == {'state loaded after with_format': 200, 'state loaded before it': 300}, left
PY
HF_HUB_OFFLINE=1 "$work/env/bin/python" "$work/resume.py"
