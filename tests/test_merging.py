"Merging: halves are the mean to the bit, slerp ends at its ends, and what does not fit is refused."
import json, multiprocessing, os, signal

os.environ.setdefault('HF_HUB_OFFLINE', '1')                # before a library reads it

import pytest
import torch

from gte_nb.data.tokens import train_tokenizer
from gte_nb.model.embedder import Embedder
from gte_nb.model.encoder import Encoder, EncoderConfig, StaticEncoder
from gte_nb.model.folders import Dense, Settings
from gte_nb.model.identity import model_hash
from gte_nb.sharing.publish import model_files
from gte_nb.training import merging as module
from gte_nb.training.card import write_card
from gte_nb.training.merge_command import gte_merge
from gte_nb.training.merging import merge, merged, slerp

TEXTS = 'read a file and close it', 'sort the rows of a table'
TOKENIZERS = [train_tokenizer([text], 60) for text in TEXTS]

def saved(folder, seed=0, static=True, tokenizer=0, length=32, settings=None, **shape):
    "A small model with random weights."
    torch.manual_seed(seed)
    tokenizer, shape = TOKENIZERS[tokenizer], dict(hidden_size=8) | shape
    encoder = StaticEncoder(64, **shape) if static else Encoder(EncoderConfig(64, **dict(num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16) | shape))
    Embedder(encoder, tokenizer, length, settings).save(folder)
    return folder

def weights(model): return model.encoder.state_dict() | model.settings.layers.state_dict()

def dense(): return Settings(layers=torch.nn.Sequential(Dense(torch.nn.Linear(8, 4))))

@pytest.mark.parametrize('how', [dict(), dict(static=False), dict(static=False, settings=dense)], ids=str)
def test_halves_are_the_mean_to_the_bit_and_slerp_ends_at_its_ends(how, tmp_path):
    def model(name, seed): # a module of its own for each
        return saved(tmp_path/name, seed, **how | ({'settings': dense()} if 'settings' in how else {}))
    folders = [model('a', 0), model('b', 1)]
    first, second = (weights(Embedder.load(folder)) for folder in folders)
    half = weights(merged(folders, [0.5, 0.5]))
    assert all(torch.equal(half[name], (first[name] + second[name]) / 2) for name in first)
    for shares, end in (([1, 0], first), ([0, 1], second)):
        for method in module.METHODS:
            there = weights(merged(folders, shares, method))
            assert all(torch.equal(there[name], end[name]) for name in end)
    three = weights(merged([*folders, folders[0]], [0.25, 0.5, 0.25]))
    assert all(torch.equal(three[name], half[name]) for name in first)

def test_slerp_of_what_has_no_arc_is_the_mean():
    vector = torch.tensor([3., 4.])
    for other in (2*vector, -vector, 0*vector):
        assert torch.equal(slerp([vector, other], [0.75, 0.25]), 0.75*vector + 0.25*other)

@pytest.mark.parametrize('other, says', [
    (dict(hidden_size=4), "hidden_size is 8 in one and 4 in the other"),
    (dict(static=False), "kind is 'a table' in one and 'a BERT' in the other"),
    (dict(tokenizer=1), 'tokenizer is'),
    (dict(length=16), 'max_length is 32 in one and 16'),
    (dict(settings=Settings(prompts=dict(query='find: '))), "prompts is {} in one and {'query': 'find: '}"),
    (dict(settings=Settings(normalize=False)), 'normalize is True in one and False'),
    (dict(settings=Settings(truncate_dim=4)), 'truncate_dim is None in one and 4'),
    (dict(settings=Settings(skip_unknown=True)), 'skip_unknown is False in one and True'),
], ids=lambda value: value if isinstance(value, str) else '')
def test_models_that_differ_in_more_than_weights_are_refused(other, says, tmp_path):
    folders = [saved(tmp_path/'a'), saved(tmp_path/'b', 1, **other)]
    refused(lambda: merge(folders, [0.5, 0.5], tmp_path/'c'), says, str(folders[0]), str(folders[1]))
    assert not (tmp_path/'c').exists()

@pytest.mark.parametrize('other, says', [
    (dict(num_attention_heads=4), 'num_attention_heads is 2 in one and 4'),         # of equal tensors
    (dict(hidden_act='relu'), "hidden_act is 'gelu' in one and 'relu'"),
    (dict(settings=Settings(('cls',))), "pooling is ('mean',) in one and ('cls',)"),
    (dict(settings=dense()), 'layers is'),
], ids=lambda value: value if isinstance(value, str) else '')
def test_transformers_that_differ_in_more_than_weights_are_refused(other, says, tmp_path):
    folders = [saved(tmp_path/'a', static=False), saved(tmp_path/'b', static=False, **other)]
    refused(lambda: merged(folders, [0.5, 0.5]), says)

def refused(call, *says):
    with pytest.raises(ValueError) as error: call()
    sentence = str(error.value)
    assert '\n' not in sentence and all(part in sentence for part in says), sentence

@pytest.mark.parametrize('shares, says', [
    (0.5, 'shares is 0.5; give a list of numbers, such as [0.5, 0.5]'),
    (['a', 'b'], "shares is ['a', 'b']; give a list of numbers"),
    ('ab', "shares is 'ab'; give a list of numbers"),
    (None, 'shares is None; give a list of numbers'),
], ids=str)
def test_shares_that_are_no_numbers(shares, says, tmp_path):
    for call in (lambda: merge(['a', 'b'], shares, tmp_path/'c'), lambda: merged(['a', 'b'], shares)):
        refused(call, says)

@pytest.mark.parametrize('words, says', [
    ('a', 'a merge needs two models or more'),
    ('a b --weight 1.5', 'the shares are -0.5, 1.5; they must lie between 0 and 1'),
    ('a b --weight nan', 'the shares are nan, nan'),
    ('a b --weight 0.5 0.6', 'the shares are 0.5, 0.6; they must lie between 0 and 1 and add up to 1'),
    ('a b b --weight 0.5', 'there are 3 models and 1 shares'),
    ('a b b --method slerp', 'slerp goes along the arc between two models, and there are 3'),
    ('a b --method mean', "method is 'mean'; choose one of linear, slerp"),
    ('a nowhere', 'nowhere: the hub does not give it'),
    ('a empty', 'empty holds no model'),
    ('a all-MiniLM-L6-v2', "kind is 'a table' in one and 'a BERT'"),
    ('a b --out a', 'a holds another model; choose another --out'),
    ('a b --out file', 'file'),
])
def test_bad_words_are_one_sentence(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in 'ab': saved(tmp_path/name, ord(name))
    before = model_hash('a')
    (tmp_path/'empty').mkdir()
    (tmp_path/'file').touch()
    with pytest.raises(SystemExit) as left:
        gte_merge([*words.split(), *['--out', 'c']*('--out' not in words)])
    error = capsys.readouterr().err
    assert left.value.code == 1 and error.startswith('error: ') and error.count('\n') == 1 and says in error
    assert model_hash('a') == before and not (tmp_path/'c'/'model.safetensors').exists()

def trained(folder, **about):
    "What a run writes beside its model."
    about = dict(name=folder.name, stage=1, start='scratch', init='scratch', sources=['see_also'],
        query_tokens=16, document_tokens=24) | about
    (folder/'training.json').write_text(json.dumps(dict(about=about, pairs=8, seconds=1., skipped=0)))
    return folder

def test_the_card_says_what_a_merge_is_made_of(tmp_path):
    one, two = trained(saved(tmp_path/'one')), trained(saved(tmp_path/'two', 1), stage=2, query_tokens=20,
        start='google-bert/bert-base-uncased', init='google-bert/bert-base-uncased')
    assert merge([one, two, saved(tmp_path/'three', 2)], [0.5, 0.25, 0.25], tmp_path/'c')
    card, history = ((tmp_path/'c'/name).read_text() for name in ('README.md', 'history.json'))
    for part in ('# c, merge', f'three {model_hash(tmp_path/"three")}', '0.5, 0.25, 0.25',
                 'google-bert/bert-base-uncased', 'weights that nobody has described', 'not known',
                 'cut at 20 tokens', 'see_also', 'license: other'):
        assert part in card, part
    assert str(tmp_path) not in card + history
    assert [run['about']['stage'] for run in json.loads(history)] == [1, 2, 'merge']
    assert model_files(tmp_path/'c') and not write_card(tmp_path/'c')
    # merged once more: each run is told once
    assert merge([one, tmp_path/'c'], [0.5, 0.5], tmp_path/'d')
    history = json.loads((tmp_path/'d'/'history.json').read_text())
    assert [run['about']['name'] for run in history] == ['one', 'two', 'c', 'd']

def test_a_kill_leaves_no_half_of_a_model(tmp_path, monkeypatch):
    folders = [saved(tmp_path/'a'), saved(tmp_path/'b', 1)]
    monkeypatch.setattr(module, 'write_card', lambda folder: os.kill(os.getpid(), signal.SIGKILL))
    call = folders, [0.5, 0.5], tmp_path/'c'
    child = multiprocessing.get_context('fork').Process(target=merge, args=call)
    child.start(); child.join()
    assert child.exitcode == -signal.SIGKILL and not [*(tmp_path/'c').glob('[!.]*')]
    monkeypatch.undo()
    assert merge(*call) and not merge(*call)
    assert not (tmp_path/'c'/'.saving').exists()
    refused(lambda: merge(folders, [0.25, 0.75], tmp_path/'c'),
        'holds another model (shares [0.5, 0.5] there, [0.25, 0.75] here)')
