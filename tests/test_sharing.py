"""Sharing: what names a model, what is refused before an upload, what a card says, and who reads the ONNX file with equal vectors."""
import json, os, shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gte_nb.embedder import Embedder, minilm_folder, train_tokenizer
from gte_nb.encoder import Encoder, EncoderConfig, StaticEncoder
from gte_nb.folders import Dense, Settings
from gte_nb.sharing import (_snippets, export_onnx, gte_share, hub_folder, licences, model_card, model_files, model_hash,
                            training_history, weights_hash, write_card)

os.environ.setdefault('HF_HUB_OFFLINE', '1')
TEXTS = ['Read a CSV file', 'def read_csv(path):\n    return 1', '', '?', '  spaces\tand\nlines  ', 'naïve café, Größe 日本語 😀', 'word '*99, 'READ [MASK] readCsv']
PAIRS = 'sentence-transformers/all-MiniLM-L6-v2'

def said(function, capsys=None):
    "The sentence of a ValueError; or what a command prints, also when it ends with an error."
    if capsys is None:
        with pytest.raises(ValueError) as raised: function()
        assert '\n' not in str(raised.value)
        return str(raised.value)
    try: function()
    except SystemExit: pass
    printed = capsys.readouterr()
    return printed.out + printed.err

def bert(settings=None, own_tokenizer=False, layers=1):
    "A BERT of random weights, with BERT's tokenizer or with one of its own."
    tokenizer = train_tokenizer(TEXTS*3, 300) if own_tokenizer else Embedder.load(keep_layers=(0,)).tokenizer
    torch.manual_seed(0)
    config = EncoderConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=64)
    return Embedder(Encoder(config), tokenizer, 64, settings)

def static(): return Embedder(StaticEncoder(300, 16), train_tokenizer(TEXTS*3, 300, special_tokens=False), 64)
def dense(): return torch.nn.Sequential(Dense(torch.nn.Linear(32, 8).requires_grad_(False)))

ABOUT = dict(name='tiny', stage=1, start='scratch', init='scratch', max_length=64, query_tokens=32, document_tokens=32, sources=['see_also'],
             temperature=0.03, batch_size=8, steps=2, seed=0, corpus='0'*16)

def run(folder, embedder, **about):
    "A finished run, with its card."
    embedder.save(folder)
    (folder/'training.json').write_text(json.dumps(dict(about=ABOUT | about, seconds=1.5, pairs=16, skipped=0)))
    write_card(folder)
    return folder

@pytest.fixture(scope='module')
def finished(tmp_path_factory): return run(tmp_path_factory.mktemp('runs')/'tiny', bert())

@pytest.fixture
def copied(finished, tmp_path): return shutil.copytree(finished, tmp_path/'copy')

def with_fields(**fields): return lambda content: json.dumps(dict(json.loads(content), **fields)).encode()

# What decides a model's vectors names it, and nothing else does.
@pytest.mark.parametrize('file, change, same', [
    ('model.safetensors', lambda content: content[:-4] + b'\0\0\0\0', False),
    ('config.json', with_fields(num_attention_heads=4), False),
    ('tokenizer.json', with_fields(truncation=None), False),
    ('1_Pooling/config.json', with_fields(pooling_mode_cls_token=True), False),
    ('2_Dense/config.json', lambda _: b'{}', False),
    ('config_sentence_transformers.json', with_fields(default_prompt_name='query'), False),
    ('sentence_bert_config.json', with_fields(max_seq_length=8), False),
    ('vocab.txt', lambda _: b'[PAD]', False),
    ('router_config.json', lambda _: b'{"types": {"query_0_StaticEmbedding": ""}}', False),
    ('README.md', lambda _: b'# mine', True),
    ('training.json', with_fields(seconds=2), True),
    ('log.csv', lambda _: b'step', True),
    ('evaluation/results.json', lambda _: b'{}', True),
    ('checkpoints/000000001/state.safetensors', lambda _: b'', True),
])
def test_a_model_is_named_by_what_decides_its_vectors(file, change, same, copied):
    modules = json.loads((copied/'modules.json').read_text())
    (copied/'modules.json').write_text(json.dumps([*modules, dict(idx=3, name='3', path='2_Dense', type='sentence_transformers.models.Dense')]))
    before, weights = model_hash(copied), weights_hash(copied)
    (copied/file).parent.mkdir(exist_ok=True, parents=True)
    (copied/file).write_bytes(change((copied/file).read_bytes() if (copied/file).exists() else b''))
    assert (model_hash(copied) == before) == same and (weights_hash(copied) == weights) == (file != 'model.safetensors')

def test_folders_inside_a_module_count_and_an_empty_folder_is_no_model(copied, tmp_path):
    (copied/'router_config.json').write_text('{"types": {"query_0_StaticEmbedding": ""}}')
    before = model_hash(copied)
    (copied/'query_0_StaticEmbedding').mkdir()
    (copied/'query_0_StaticEmbedding'/'model.safetensors').write_bytes(b'')
    assert model_hash(copied) != before
    (tmp_path/'empty').mkdir()
    assert 'holds no model (no weights in model.safetensors)' in said(lambda: model_hash(tmp_path/'empty'))

def test_a_model_of_the_hub_comes_with_all_that_decides_its_vectors(finished, tmp_path, monkeypatch):
    from huggingface_hub import constants
    cache = tmp_path/'hub'/'models--somebody--model'
    (cache/'refs').mkdir(parents=True)
    (cache/'refs'/'main').write_text('0'*40)
    shutil.copytree(finished, cache/'snapshots'/('0'*40))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert model_hash(hub_folder('somebody/model')) == model_hash(finished)
    (cache/'snapshots'/('0'*40)/'model.safetensors').unlink()
    assert 'a pickle is never loaded here' in said(lambda: hub_folder('somebody/model'))
    assert 'the hub does not give it' in said(lambda: hub_folder('nobody/nothing'))

# What is wrong with a folder is said before anything is uploaded.
@pytest.mark.parametrize('file, change, says', [
    ('config.json', None, 'has no config.json; save the model again with Embedder.save'),
    ('modules.json', None, 'has no modules.json; save the model again'),
    ('tokenizer.json', lambda content: content[:1000], 'tokenizer.json is damaged'),
    ('tokenizer.json', lambda content: b'{}', 'does not load: '),
    ('model.safetensors', lambda content: content[:-1000], 'model.safetensors is damaged'),
    ('model.safetensors', lambda content: content[:-4] + np.float32(np.nan).tobytes(), 'holds NaN or infinity'),
    ('config.json', with_fields(num_hidden_layers=3), 'lacks the tensor encoder.layer.1'),
    ('config.json', with_fields(_name_or_path='/home/somebody/models/bert'), 'config.json holds /home/somebody/models/bert, a path of a machine; remove it'),
    ('1_Pooling/config.json', with_fields(pooling_mode='median'), "asks for the Pooling 'median'"),
    ('modules.json', lambda content: content.replace(b'models.Normalize', b'models.LSTM'), 'asks for the module sentence_transformers.models.LSTM'),
    ('tokenizer_config.json', with_fields(model_max_length=512), 'cuts texts at 512 tokens, and the model reads 64'),
    ('README.md', None, 'has no README.md; write one; for a finished run gte_share does'),
    ('README.md', lambda content: b'# no head', 'is not what the hub reads (there is none)'),
    ('README.md', lambda content: content.replace(b'tags:', b'tags: ['), 'is not what the hub reads (while parsing'),
    ('README.md', lambda content: content.replace(b'license: other\n', b''), 'it names no license'),
    ('LICENSE.md', None, 'has no LICENSE.md; write one, or delete README.md too'),
    ('onnx/model.onnx', lambda content: b'of another model', 'was exported before the folder was changed'),
    ('onnx/model.onnx', lambda content: b'\0/home/somebody/encoder.py\0', 'holds /home/somebody/encoder.py, a path of a machine'),
])
def test_a_folder_that_others_could_not_use_is_refused(file, change, says, copied):
    if change is None: (copied/file).unlink()
    else:
        (copied/file).parent.mkdir(exist_ok=True)
        (copied/file).write_bytes(change((copied/file).read_bytes() if (copied/file).exists() else b''))
    assert says in said(lambda: model_files(copied))

def test_what_is_not_named_stays(copied):
    before = model_files(copied)
    for name in ('pytorch_model.bin', 'checkpoints/000000001/state.safetensors', 'notes.txt'):
        (copied/name).parent.mkdir(parents=True, exist_ok=True)
        (copied/name).write_text('/home/somebody')
    assert model_files(copied) == before

@pytest.mark.parametrize('settings, names', [
    (Settings(pooling=('cls',), normalize=False), {'1_Pooling/config.json'}),
    (Settings(layers=dense()), {'1_Pooling/config.json', '2_Dense/config.json', '2_Dense/model.safetensors'}),
])
def test_the_files_follow_modules_json(settings, names, tmp_path):
    run(tmp_path/'run', bert(settings), sources=['command_example'])
    assert {name for name, _ in model_files(tmp_path/'run') if '/' in name} == names
    downloaded = tmp_path/'downloaded'
    for name, _ in model_files(tmp_path/'run'):
        (downloaded/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path/'run'/name, downloaded/name)
    assert np.array_equal(Embedder.load(downloaded).encode(TEXTS), Embedder.load(tmp_path/'run').encode(TEXTS))

def test_a_folder_that_sentence_transformers_saved_can_be_shared(finished, tmp_path, capsys):
    pytest.importorskip('sentence_transformers')
    from sentence_transformers import SentenceTransformer
    SentenceTransformer(str(finished), device='cpu').save(str(tmp_path/'theirs'))
    shutil.copy(finished/'README.md', tmp_path/'theirs')
    shutil.copy(finished/'LICENSE.md', tmp_path/'theirs')
    capsys.readouterr()
    assert '1_Pooling/config.json' in (text := said(lambda: gte_share(str(tmp_path/'theirs')), capsys)) and 'to publish: gte_share' in text

def test_a_folder_that_is_not_there(tmp_path, capsys): assert 'there is no folder' in said(lambda: gte_share(str(tmp_path/'nowhere')), capsys)

# The card: licence, base model and language on histories that might have been.
def might(finished, **about): return [dict(record, rows={}, about={**record['about'], **about}) for record in training_history(finished)]
def head_of(history):
    from huggingface_hub import ModelCard
    return ModelCard(model_card(bert(), history)).data

@pytest.mark.parametrize('about, expected', [
    (dict(sources=['operation_documentation', 'command_example', 'question_answer']), dict(license='apache-2.0', license_name=None, base_model=None, language=['en', 'code'])),   # Apache-2.0, Apache-2.0, BSD-3-Clause
    (dict(start='all-MiniLM-L6-v2'), dict(license='other', license_link='LICENSE.md', base_model=PAIRS)),
    (dict(start='google-bert/bert-base-uncased', sources=['gooaq']), dict(base_model='google-bert/bert-base-uncased', datasets=['sentence-transformers/gooaq'])),
    (dict(sources=['my_own']), dict(language=None, base_model=None, license='other')),
    (dict(start='weights 0123456789abcdef'), dict(base_model=None, license='other')),           # it began with weights that nobody knows any more
])
def test_the_head_of_a_card(about, expected, finished):
    head = head_of(might(finished, **about))
    assert {name: getattr(head, name) for name in expected} == expected

@pytest.mark.parametrize('source, licence', dict(headword_example='GPL-3.0-or-later', section_text='CC BY-SA (Wikipedia)', docstring_code='that of each package',
                                                 bookmark_note='MIT (package); notes', my_own='not stated').items())
def test_licences_that_are_not_permissive(source, licence, finished):
    assert head_of(might(finished, sources=['command_example', source])).license == 'other'
    assert licences(might(finished, sources=[source]))['licence'][0].startswith(licence)

@pytest.mark.parametrize('settings, by_hand, words', [
    (Settings(), True, 'mean over the tokens, unit length'),
    (Settings(pooling=('cls',), normalize=False), True, 'vector of the first token'),
    (Settings(pooling=('max', 'mean')), False, 'maximum over the tokens and mean over the tokens, unit length'),
    (Settings(layers=dense()), False, 'mean over the tokens, Dense layer, unit length'),
    (Settings(prompts=dict(query='q: '), default_prompt_name='query'), False, 'mean over the tokens, unit length'),
])
def test_a_card_says_how_tokens_become_a_vector(settings, by_hand, words, finished, tmp_path):
    embedder = bert(settings)
    card = model_card(embedder, might(finished))
    assert words in card and ("prompt before a text: `query` 'q: ', `query` where none is named" in card) == bool(settings.prompts)
    snippets = dict(_snippets(embedder))
    assert ('transformers' in snippets) == by_hand
    if not by_hand: return
    pytest.importorskip('transformers')
    embedder.save(tmp_path/'model')
    exec(snippets['transformers'].replace('MODEL', str(tmp_path/'model')), scope := dict(texts=TEXTS))
    assert np.abs(scope['vectors'].numpy() - embedder.encode(TEXTS)).max() < 1e-5

# ONNX: what the graph declares is what the folder's tokenizer gives, and its vectors are those of the folder.
@pytest.fixture
def onnx():
    for name in ('onnx', 'onnxscript', 'onnxruntime', 'transformers'): pytest.importorskip(name)

@pytest.mark.parametrize('settings, own_tokenizer, inputs', [
    (Settings(), False, ['input_ids', 'attention_mask', 'token_type_ids']),
    (Settings(), True, ['input_ids', 'attention_mask']),
    (Settings(pooling=('cls',), normalize=False), True, ['input_ids', 'attention_mask']),
    (Settings(pooling=('lasttoken', 'weightedmean'), truncate_dim=40), False, ['input_ids', 'attention_mask', 'token_type_ids']),
    (Settings(pooling=('max',), layers=dense()), True, ['input_ids', 'attention_mask']),
])
def test_onnx_gives_the_vectors_of_the_folder(settings, own_tokenizer, inputs, tmp_path, onnx):
    import onnxruntime
    from transformers import AutoTokenizer
    embedder = bert(settings, own_tokenizer)
    embedder.save(tmp_path)
    assert export_onnx(tmp_path) < 1e-5
    session, tokenizer = onnxruntime.InferenceSession(tmp_path/'onnx'/'model.onnx'), AutoTokenizer.from_pretrained(tmp_path)
    assert [tensor.name for tensor in session.get_inputs()] == inputs
    for texts in (TEXTS, TEXTS[:1], TEXTS[-3:-1]):
        hidden, vectors = session.run(None, dict(tokenizer(texts, padding=True, truncation=True, return_tensors='np')))
        assert np.abs(vectors - embedder.encode(texts)).max() < 1e-5 and hidden.shape[::2] == (len(texts), 32)
    assert model_hash(tmp_path).encode() in (tmp_path/'onnx'/'model.onnx').read_bytes()

def test_onnx_of_a_folder_that_leaves_the_inputs_to_the_version_of_transformers(tmp_path, onnx):
    import onnxruntime
    from transformers import AutoTokenizer
    bert(own_tokenizer=True).save(tmp_path)
    settings = json.loads((tmp_path/'tokenizer_config.json').read_text())
    del settings['model_input_names']
    (tmp_path/'tokenizer_config.json').write_text(json.dumps(settings))
    (tmp_path/'special_tokens_map.json').unlink()
    export_onnx(tmp_path)
    given = dict(AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, truncation=True, return_tensors='np'))
    assert {tensor.name for tensor in onnxruntime.InferenceSession(tmp_path/'onnx'/'model.onnx').get_inputs()} == set(given)
    assert json.loads((tmp_path/'special_tokens_map.json').read_text())['pad_token'] == '[PAD]'

def test_onnx_of_what_a_graph_cannot_express(tmp_path, onnx):
    static().save(tmp_path/'static')
    assert 'holds a table of token vectors' in said(lambda: export_onnx(tmp_path/'static'))
    bert(Settings(prompts=dict(query='find: '), include_prompt=False)).save(tmp_path/'prompt')
    assert 'leaves its prompts out of the pooling' in said(lambda: export_onnx(tmp_path/'prompt'))
    bert().save(tmp_path/'cased')
    tokenizer = json.loads((tmp_path/'cased'/'tokenizer.json').read_text())
    tokenizer['normalizer']['lowercase'] = False                                # transformers' BertTokenizer lower-cases, tokenizer.json alone does not
    (tmp_path/'cased'/'tokenizer.json').write_text(json.dumps(tokenizer))
    assert 'give other tokens than the whole folder' in said(lambda: export_onnx(tmp_path/'cased')) and not (tmp_path/'cased'/'onnx'/'model.onnx').exists()

def test_fastembed_reads_the_folder(tmp_path, onnx):
    fastembed = pytest.importorskip('fastembed')
    from fastembed.common.model_description import ModelSource, PoolingType
    embedder = bert(Settings(pooling=('max',)))
    embedder.save(tmp_path)
    export_onnx(tmp_path)
    fastembed.TextEmbedding.add_custom_model('my/model', PoolingType.DISABLED, True, ModelSource(hf='my/model'), 32, 'onnx/model.onnx', output_name='sentence_embedding')
    found = np.stack(list(fastembed.TextEmbedding('my/model', specific_model_path=str(tmp_path)).embed(TEXTS)))
    assert np.abs(found - embedder.encode(TEXTS)).max() < 1e-5
