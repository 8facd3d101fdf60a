#!/usr/bin/env bash
# sentence-transformers 6.2.0: a model with the prompts "query" and "passage" (as E5's are called) embeds documents without any prompt.
# Expected: encode_document takes the first of the prompts "document", "passage" and "corpus" that the model has, as its documentation says.
# Seen: an empty prompt called "document" is added to every model, so it is always found first: encode_document(text) is the vector
# of the text without a prompt, also after saving and loading; encode(text, prompt_name="passage") is another vector. encode_query uses "query".
# Fails (exit 1) when that changes.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
pip() { "$work/env/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip torch==2.13.0
pip sentence-transformers==6.2.0 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
cat > "$work/prompts.py" <<'PY'
import sys
from importlib.metadata import version
import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
words = ['[UNK]', 'passage', 'query', 'read', 'file']                    # each has a direction of its own: a vector shows what was read
tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token='[UNK]'))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
table = StaticEmbedding(tokenizer, embedding_weights=np.eye(5, dtype='float32'))
SentenceTransformer(modules=[table], prompts={'query': 'query ', 'passage': 'passage '}, device='cpu').save(sys.argv[1])
model = SentenceTransformer(sys.argv[1], device='cpu')
print('sentence-transformers', version('sentence-transformers'), 'prompts', model.prompts)
def read(vector): return [word for word, weight in zip(words, vector) if weight > 0]
query, document, named = model.encode_query('read file'), model.encode_document('read file'), model.encode('read file', prompt_name='passage')
print('encode_query reads', read(query)); print('encode_document reads', read(document)); print('encode with prompt_name passage reads', read(named))
assert read(query) == ['query', 'read', 'file'] and read(named) == ['passage', 'read', 'file']
assert read(document) == ['read', 'file'], 'the prompt is used now: the finding is out of date'
PY
HF_HUB_OFFLINE=1 "$work/env/bin/python" "$work/prompts.py" "$work/model"
