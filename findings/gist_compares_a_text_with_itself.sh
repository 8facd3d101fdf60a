#!/usr/bin/env bash
# sentence-transformers 6.2.0, GISTEmbedLoss with its default margin of 0: where the guide sees both texts of a pair alike, each of them
# becomes a negative of itself. Expected: a batch of one pair holds no negative, so its loss is 0, whatever the texts.
# Seen: 0.0000 for texts that differ; 1.0986 = log 3 for 'Red car' and 'red car' with a guide that lowers case. Why: the diagonals of
# anchor-anchor and positive-positive are left out only because a text is nearer to itself than its pair is, 1 > cosine; here 1 > 1 is false.
# In a larger batch every such pair is pushed from itself, without a word. Fails (exit 1) when that changes.
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
pip() { "$work/env/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip torch==2.13.0
pip sentence-transformers==6.2.0 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
cat > "$work/alike.py" <<'PY'
import math, sys
from importlib.metadata import version
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
def model(seed):
    torch.manual_seed(seed)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate('[PAD] [UNK] red car old tree'.split())}, unk_token='[UNK]'))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    folder = f'{sys.argv[1]}/{seed}'
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token='[PAD]', unk_token='[UNK]').save_pretrained(folder)
    BertModel(BertConfig(vocab_size=6, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)).save_pretrained(folder)
    layers = Transformer(folder)
    return SentenceTransformer(modules=[layers, Pooling(layers.get_embedding_dimension())], device='cpu').eval()
student, guide = model(0), model(1)
loss = GISTEmbedLoss(student, guide, temperature=0.05)                  # its margin is 0
def of_pair(query, document): return loss([student.preprocess([query]), student.preprocess([document])], None).item()
different, alike = of_pair('red car', 'old tree'), of_pair('Red car', 'red car')
print('sentence-transformers', version('sentence-transformers'), f'texts that differ: {different:.4f}, that the guide sees alike: {alike:.4f}')
assert abs(different) < 1e-6 and abs(alike - math.log(3)) < 1e-3, 'the finding is out of date'
PY
HF_HUB_OFFLINE=1 "$work/env/bin/python" "$work/alike.py" "$work"
