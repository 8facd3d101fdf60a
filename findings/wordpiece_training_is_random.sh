#!/usr/bin/env bash
# tokenizers 0.23.3: WordPieceTrainer gives another vocabulary in every process, for the same texts, the same settings and one thread.
# Expected: training has no seed to set, so the vocabulary is a function of texts and settings.
# Seen: eight processes, one text file, eight orders of the tokens; where counts are equal (ties) the sets of tokens differ too. So a model's
# embedding table cannot be joined with a vocabulary that was "trained again on the same corpus", and a run whose vocabulary is lost cannot go on.
# BpeTrainer, beside it, gives one vocabulary in all processes. Fails (exit 1) when that changes.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cat > "$work/train.py" <<'PY'
import hashlib, sys, tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
kind = sys.argv[1]
model, trainer = {'WordPiece': (models.WordPiece(unk_token='[UNK]'), trainers.WordPieceTrainer), 'BPE': (models.BPE(unk_token='[UNK]'), trainers.BpeTrainer)}[kind]
tokenizer = Tokenizer(model)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
texts = [f'{a}{b} {b}{c} {c}{a}' for a in ('read', 'write', 'open', 'parse') for b in ('line', 'file', 'row', 'table') for c in ('er', 'ing', 'ed', 's')]
tokenizer.train_from_iterator(texts, trainer(vocab_size=60, special_tokens=['[UNK]'], show_progress=False))
vocabulary = tokenizer.get_vocab()
def digest(what): return hashlib.sha256(repr(what).encode()).hexdigest()[:12]
print(tokenizers.__version__, kind, 'tokens', digest(sorted(vocabulary)), 'with ids', digest(sorted(vocabulary.items())))
PY
for kind in WordPiece BPE; do
    for _ in 1 2 3 4 5 6 7 8; do RAYON_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false "$work/env/bin/python" "$work/train.py" $kind; done > "$work/$kind"
    cat "$work/$kind"
done
wordpiece=$(cut -d' ' -f6- "$work/WordPiece" | sort -u | wc -l); bpe=$(cut -d' ' -f6- "$work/BPE" | sort -u | wc -l)
sets=$(cut -d' ' -f4 "$work/WordPiece" | sort -u | wc -l)
echo "distinct vocabularies of eight processes: WordPiece $wordpiece (as sets of tokens: $sets), BPE $bpe"
[ "$wordpiece" -gt 1 ] && [ "$bpe" -eq 1 ]
