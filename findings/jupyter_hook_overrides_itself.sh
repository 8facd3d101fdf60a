#!/usr/bin/env bash
# jupyter_server 2.21.1: a contents manager reads its hooks wrongly in two ways.
# Expected: a configuration that names one pre_save_hook is silent; and a hook may be given as "callable or importstring"
# (its own help), for saving before and after alike, whenever it is set.
# Seen: with one hook in the configuration the manager warns that it overrides an existing hook, which is the same one: the
# check runs when the trait holds the new value already. And the check of pre_save_hook imports the name that the trait
# holds, not the one that is proposed: set on a manager that is there, 'json.dumps' fails with an AttributeError of None,
# while post_save_hook takes the same string.
# So who cleans notebooks on saving reads of a second hook that nobody has set.
# Fails (exit 1) when that changes.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check jupyter_server==2.21.1 traitlets==5.16.1
cat > "$work/hooks.py" <<'PY'
import warnings
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from traitlets.config import Config


def only_hook(model, path, contents_manager):
    "The one hook of this program."


with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter('always')
    LargeFileManager(config=Config(LargeFileManager=dict(pre_save_hook=only_hook)))
said = [str(warning.message) for warning in seen]
print(said)
assert said == ['Overriding existing pre_save_hook (only_hook) with a new one (only_hook).']
manager = LargeFileManager()
manager.post_save_hook = 'json.dumps'
print('after saving:', manager.post_save_hook)
try:
    manager.pre_save_hook = 'json.dumps'
except AttributeError as error:
    print('before saving:', type(error).__name__, error)
else:
    raise SystemExit('pre_save_hook takes a string now')
PY
cd "$work"
env/bin/python hooks.py
