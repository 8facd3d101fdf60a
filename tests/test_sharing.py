"""Sharing: what names a model, what is refused before an upload, what cards say."""
import json, os, shutil
from functools import cache

os.environ.setdefault('HF_HUB_OFFLINE', '1')                # before a library reads it

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from gte_nb.model.embedder import Embedder
from gte_nb.data.tokens import train_tokenizer
from gte_nb.model.encoder import Encoder, EncoderConfig, StaticEncoder
from gte_nb.model.folders import Dense, Settings
from gte_nb.training.card import _snippets, licences, model_card, training_history, write_card
from gte_nb.sharing.publish import gte_share, model_files
from gte_nb.model.identity import hub_folder, model_hash, weights_hash

TEXTS = ['Read a CSV file', 'def read_csv(path):\n    return 1', '', '?', '  spaces\tand\nlines  ',
         'naïve café, Größe 日本語 😀', 'word '*99, 'READ [MASK] readCsv']

def refusal(function):
    "The sentence of a ValueError."
    with pytest.raises(ValueError) as raised: function()
    assert '\n' not in str(raised.value)
    return str(raised.value)

def printed(function, capsys):
    "What a command prints, also when it ends with an error."
    capsys.readouterr()
    try: function()
    except SystemExit: pass
    out, err = capsys.readouterr()
    return out + err

@cache
def minilm_tokenizer(): return Embedder.load(keep_layers=()).tokenizer.to_str()

def bert(settings=None, own_tokenizer=False):
    "A BERT of random weights, with BERT's tokenizer or with one of its own."
    tokenizer = train_tokenizer(TEXTS*3, 300) if own_tokenizer else Tokenizer.from_str(minilm_tokenizer())
    torch.manual_seed(0)
    config = EncoderConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=1,
                           num_attention_heads=2, intermediate_size=64)
    return Embedder(Encoder(config), tokenizer, 64, settings)

def static(): return Embedder(StaticEncoder(300, 16), train_tokenizer(TEXTS*3, 300, special_tokens=False), 64)

def dense(): return torch.nn.Sequential(Dense(torch.nn.Linear(32, 8).requires_grad_(False)))

ABOUT = dict(name='tiny', stage=1, start='scratch', init='scratch', max_length=64, query_tokens=32, steps=2,
             document_tokens=32, sources=['see_also'], temperature=0.03, batch_size=8, seed=0, corpus='0'*16)

def run(folder, embedder, **about):
    "A finished run, with its card."
    embedder.save(folder)
    said = dict(about=ABOUT | about, seconds=1.5, pairs=16, skipped=0)
    (folder/'training.json').write_text(json.dumps(said))
    write_card(folder)
    return folder

@pytest.fixture(scope='module')
def finished(tmp_path_factory): return run(tmp_path_factory.mktemp('runs')/'tiny', bert())

@pytest.fixture
def copied(finished, tmp_path): return shutil.copytree(finished, tmp_path/'copy')

def with_fields(**fields): return lambda content: json.dumps(json.loads(content) | fields).encode()

def becomes(text): return lambda _: text

def changed(folder, file, change):
    "Give a file other bytes, or none."
    if change is None: return (folder/file).unlink()
    (folder/file).parent.mkdir(exist_ok=True, parents=True)
    (folder/file).write_bytes(change((folder/file).read_bytes() if (folder/file).exists() else b''))

# What decides a model's vectors names it, and nothing else does.
@pytest.mark.parametrize('file, change, same', [
    ('model.safetensors', lambda content: content[:-4] + b'\0\0\0\0', False),
    ('config.json', with_fields(num_attention_heads=4), False),
    ('tokenizer.json', with_fields(truncation=None), False),
    ('1_Pooling/config.json', with_fields(pooling_mode_cls_token=True), False),
    ('2_Dense/config.json', becomes(b'{}'), False),
    ('config_sentence_transformers.json', with_fields(default_prompt_name='query'), False),
    ('sentence_bert_config.json', with_fields(max_seq_length=8), False),
    ('vocab.txt', becomes(b'[PAD]'), False),
    ('README.md', becomes(b'# mine'), True),
    ('training.json', with_fields(seconds=2), True),
    ('log.csv', becomes(b'step'), True),
    ('evaluation/results.json', becomes(b'{}'), True),
    ('checkpoints/000000001/state.safetensors', becomes(b''), True),
])
def test_a_model_is_named_by_what_decides_its_vectors(file, change, same, copied):
    modules = json.loads((copied/'modules.json').read_text())
    more = dict(idx=3, name='3', path='2_Dense', type='sentence_transformers.models.Dense')
    (copied/'modules.json').write_text(json.dumps([*modules, more]))
    before, weights = model_hash(copied), weights_hash(copied)
    changed(copied, file, change)
    assert (model_hash(copied) == before) == same
    assert (weights_hash(copied) == weights) == (file != 'model.safetensors')

def test_the_parts_of_a_router_count(copied):
    (copied/'router_config.json').write_text('{"types": {"query_0_StaticEmbedding": ""}}')
    before = model_hash(copied)
    changed(copied, 'query_0_StaticEmbedding/model.safetensors', becomes(b''))
    assert model_hash(copied) != before

def test_an_empty_folder_is_no_model(tmp_path):
    assert 'holds no model (no weights in model.safetensors)' in refusal(lambda: model_hash(tmp_path))

def test_a_model_of_the_hub_comes_with_all_that_decides_its_vectors(finished, tmp_path, monkeypatch):
    from huggingface_hub import constants
    cache, revision = tmp_path/'hub'/'models--somebody--model', '0'*40
    (cache/'refs').mkdir(parents=True)
    (cache/'refs'/'main').write_text(revision)
    shutil.copytree(finished, cache/'snapshots'/revision)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert model_hash(hub_folder('somebody/model')) == model_hash(finished)
    (cache/'snapshots'/revision/'model.safetensors').unlink()
    assert 'a pickle is never loaded here' in refusal(lambda: hub_folder('somebody/model'))
    assert 'the hub does not give it' in refusal(lambda: hub_folder('nobody/nothing'))

# What is wrong with a folder is said before anything is uploaded.
NAN = np.float32(np.nan).tobytes()

@pytest.mark.parametrize('file, change, says', [
    ('config.json', None, 'has no config.json; save the model again with Embedder.save'),
    ('modules.json', None, 'has no modules.json; save the model again'),
    ('tokenizer.json', lambda content: content[:1000], 'tokenizer.json is damaged'),
    ('tokenizer.json', becomes(b'{}'), 'does not load: '),
    ('model.safetensors', lambda content: content[:-1000], 'model.safetensors is damaged'),
    ('model.safetensors', lambda content: content[:-4] + NAN, 'holds NaN or infinity'),
    ('config.json', with_fields(num_hidden_layers=3), 'lacks the tensor encoder.layer.1'),
    ('config.json', with_fields(_name_or_path='/home/somebody/models/bert'),
        'config.json holds /home/somebody/models/bert, a path of a machine; remove it'),
    ('1_Pooling/config.json', with_fields(pooling_mode='median'), "asks for the Pooling 'median'"),
    ('modules.json', lambda content: content.replace(b'models.Normalize', b'models.LSTM'),
        'asks for the module sentence_transformers.models.LSTM'),
    ('tokenizer_config.json', with_fields(model_max_length=512),
        'cuts texts at 512 tokens, and the model reads 64'),
    ('README.md', None, 'has no README.md; write one; for a finished run gte_share does'),
    ('README.md', becomes(b'# no head'), 'is not what the hub reads (there is none)'),
    ('README.md', lambda content: content.replace(b'tags:', b'tags: ['),
        'is not what the hub reads (while parsing'),
    ('README.md', lambda content: content.replace(b'license: other\n', b''), 'it names no license'),
    ('LICENSE.md', None, 'has no LICENSE.md; write one, or delete README.md too'),
    ('onnx/model.onnx', becomes(b'of another model'), 'was exported before the folder was changed'),
    ('onnx/model.onnx', becomes(b'\0/home/somebody/encoder.py\0'),
        'holds /home/somebody/encoder.py, a path of a machine'),
])
def test_a_folder_that_others_could_not_use_is_refused(file, change, says, copied):
    changed(copied, file, change)
    assert says in refusal(lambda: model_files(copied))

def test_what_is_not_named_stays(copied):
    before = model_files(copied)
    for name in ('pytorch_model.bin', 'checkpoints/000000001/state.safetensors', 'notes.txt'):
        changed(copied, name, becomes(b'/home/somebody'))
    assert model_files(copied) == before

@pytest.mark.parametrize('settings, names', [
    (Settings(pooling=('cls',), normalize=False), {'1_Pooling/config.json'}),
    (Settings(layers=dense()), {'1_Pooling/config.json', '2_Dense/config.json', '2_Dense/model.safetensors'}),
])
def test_the_files_follow_modules_json(settings, names, tmp_path):
    folder = run(tmp_path/'run', bert(settings), sources=['command_example'])
    downloaded = tmp_path/'downloaded'
    assert {name for name, _ in model_files(folder) if '/' in name} == names
    for name, _ in model_files(folder): changed(downloaded, name, becomes((folder/name).read_bytes()))
    assert np.array_equal(Embedder.load(downloaded).encode(TEXTS), Embedder.load(folder).encode(TEXTS))

def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert 'there is no folder' in printed(lambda: gte_share(str(tmp_path/'nowhere')), capsys)

# The card: licence, base model and language on histories that might have been.
def might(finished, **about):
    return [dict(record, rows={}, about=record['about'] | about) for record in training_history(finished)]

def head_of(history):
    from huggingface_hub import ModelCard
    return ModelCard(model_card(bert(), history)).data

@pytest.mark.parametrize('about, expected', [
    (dict(sources=['operation_documentation', 'command_example', 'question_answer']), # Apache, BSD
        dict(license='apache-2.0', license_name=None, base_model=None, language=['en', 'code'])),
    (dict(start='all-MiniLM-L6-v2'),
        dict(license='other', license_link='LICENSE.md',
             base_model='sentence-transformers/all-MiniLM-L6-v2')),
    (dict(start='google-bert/bert-base-uncased', sources=['gooaq']),
        dict(base_model='google-bert/bert-base-uncased', datasets=['sentence-transformers/gooaq'])),
    (dict(sources=['my_own']), dict(language=None, base_model=None, license='other')),
    (dict(start='weights 0123456789abcdef'), dict(base_model=None, license='other')), # nobody knows them
])
def test_the_head_of_a_card(about, expected, finished):
    head = head_of(might(finished, **about))
    assert {name: getattr(head, name) for name in expected} == expected

@pytest.mark.parametrize('source, licence', [
    ('headword_example', 'GPL-3.0-or-later'), ('section_text', 'CC BY-SA (Wikipedia)'),
    ('docstring_code', 'that of each package'), ('my_own', 'not stated'),
    ('bookmark_note', 'MIT (package); notes'),
])
def test_licences_that_are_not_permissive(source, licence, finished):
    assert head_of(might(finished, sources=['command_example', source])).license == 'other'
    assert licences(might(finished, sources=[source]))['licence'][0].startswith(licence)

@pytest.mark.parametrize('settings, by_hand, words', [
    (Settings(), True, 'mean over the tokens, unit length'),
    (Settings(pooling=('cls',), normalize=False), True, 'vector of the first token'),
    (Settings(pooling=('max', 'mean')), False,
        'maximum over the tokens and mean over the tokens, unit length'),
    (Settings(layers=dense()), False, 'mean over the tokens, Dense layer, unit length'),
    (Settings(prompts=dict(query='q: '), default_prompt_name='query'), False,
        'mean over the tokens, unit length'),
])
def test_a_card_says_how_tokens_become_a_vector(settings, by_hand, words, finished, tmp_path):
    embedder = bert(settings)
    card, snippets = model_card(embedder, might(finished)), dict(_snippets(embedder))
    prompt = "prompt before a text: `query` 'q: ', `query` where none is named"
    assert words in card and (prompt in card) == bool(settings.prompts)
    assert ('transformers' in snippets) == by_hand
    if not by_hand: return
    pytest.importorskip('transformers')
    embedder.save(tmp_path/'model')
    exec(snippets['transformers'].replace('MODEL', str(tmp_path/'model')), scope := dict(texts=TEXTS))
    assert np.abs(scope['vectors'].numpy() - embedder.encode(TEXTS)).max() < 1e-5
