#!/usr/bin/env bash
# model2vec 0.10.0 and sentence-transformers 6.2.0: a folder that model2vec saves carries a modules.json, so that sentence-transformers loads it;
# the two give different vectors for a text that holds a word outside of the vocabulary.
# Expected: one folder, one vector for a text (the file modules.json is there to make it so).
# Seen: model2vec leaves [UNK] out of the mean; sentence-transformers' StaticEmbedding averages the row of [UNK] with the others:
# cosine 0.80 for 'read file zebra'; for 'zebra' alone the one gives the zero vector, the other a vector of length 3.2.
# Whoever measures with the one library and serves with the other gets other rankings. Fails (exit 1) when that changes.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
pip() { "$work/env/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip torch==2.13.0
pip model2vec==0.10.0 sentence-transformers==6.2.0 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
cat > "$work/compare.py" <<'PY'
import sys
from importlib.metadata import version
import numpy as np
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers
tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(['[PAD]', '[UNK]', 'read', 'file', 'row'])}, unk_token='[UNK]'))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
StaticModel(np.random.default_rng(0).normal(size=(5, 8)).astype('float32'), tokenizer).save_pretrained(sys.argv[1])
print({name: version(name) for name in ('model2vec', 'sentence-transformers', 'tokenizers')})
texts = ['read file', 'read file zebra', 'zebra']
one, other = (model.encode(texts) for model in (StaticModel.from_pretrained(sys.argv[1]), SentenceTransformer(sys.argv[1])))
lengths = [np.linalg.norm(vectors, axis=1) for vectors in (one, other)]
cosines = (one * other).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-12)
for row in zip(texts, cosines.round(3), *(length.round(3) for length in lengths)): print('text {!r}: cosine {}, lengths {} and {}'.format(*row))
assert cosines[0] > 0.999 and cosines[1] < 0.9 and lengths[0][2] == 0 < lengths[1][2], 'the two agree: the finding is out of date'
PY
HF_HUB_OFFLINE=1 "$work/env/bin/python" "$work/compare.py" "$work/model"
