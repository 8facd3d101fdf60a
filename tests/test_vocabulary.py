"A vocabulary is a function of its corpus, whatever the process, the threads and the order of the texts."
import json, os, random, subprocess, sys
from pathlib import Path

from gte_nb.data.tokens import ALPHABET, SPECIAL_TOKENS, _word_pieces, train_tokenizer
from tokenizers import trainers

ROOT = Path(__file__).resolve().parent.parent
WORDS = 'alpha beta gamma delta kappa sigma readCsv write_file isPrime naïve straße 東京 数据 привет'.split()
RARE = [f'x{i} {chr(0x4e00 + i)} {chr(0x430 + i % 32)}{i % 7}' for i in range(700)]
TEXTS = [' '.join([*random.Random(rare).choices(WORDS, k=8), rare]) for rare in RARE]
TRAINS = '''
import json, random, sys
from gte_nb.data.tokens import train_tokenizer
texts = json.load(sys.stdin)
random.shuffle(texts)
print(train_tokenizer(iter(texts), 1_200, special_tokens=False).to_str())
'''

def trained(process):
    settings = dict(PYTHONHASHSEED=str(process), RAYON_NUM_THREADS=str(1 + process % 3), PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, '-c', TRAINS], input=json.dumps(TEXTS), capture_output=True,
        text=True, check=True, env=os.environ | settings).stdout

def test_processes_train_one_vocabulary():
    """The library's trainer alone gives each another: its hash maps have random seeds, drawn once for a
    process."""
    vocabularies = [trained(process) for process in range(4)]
    assert len({*vocabularies}) == 1
    tokens = json.loads(vocabularies[0])['model']['vocab']
    assert len(tokens) == 1_200 and sorted(tokens.values()) == list(range(1_200))

def test_the_vocabulary_is_a_word_piece_vocabulary():
    "Where the library's trainer has no choice, ours gives the same: all characters, and every word."
    theirs, special = _word_pieces(), list(SPECIAL_TOKENS)
    trainer = trainers.WordPieceTrainer(vocab_size=100_000, special_tokens=special, show_progress=False)
    theirs.train_from_iterator(TEXTS[:300], trainer)
    ours = train_tokenizer(TEXTS[:300], 100_000, special_tokens=False)
    short = [{token for token in t.get_vocab() if len(token.removeprefix('##')) == 1} for t in (theirs, ours)]
    assert short[0] <= short[1] and {token[-1] for token in short[0]} == {token[-1] for token in short[1]}
    for text in TEXTS[:300]: assert ours.encode(text).tokens == theirs.encode(text).tokens
    assert [ours.token_to_id(token) for token in special] == [0, 1, 2, 3, 4]

def test_of_equally_rare_characters_the_first_in_unicode_are_known():
    vocabulary = train_tokenizer(TEXTS, 5_000, special_tokens=False).get_vocab()
    known = [token for token in vocabulary if len(token) == 1]
    assert len(known) == ALPHABET and chr(0x4e00) in known and chr(0x4e00 + 699) not in known
