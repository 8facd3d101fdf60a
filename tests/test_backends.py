"""ONNX: who reads the files, which backends `encode` has, and that no file of another model answers."""
import json, os, shutil
from functools import partial
from importlib import util

os.environ.setdefault('HF_HUB_OFFLINE', '1')                # before a library reads it

import numpy as np
import pytest
import torch

from gte_nb.model import backends
from gte_nb.model.embedder import Embedder
from gte_nb.model.encoder import Encoder, EncoderConfig
from gte_nb.model.folders import Dense, Settings
from gte_nb.data.tokens import train_tokenizer
from gte_nb.sharing.onnx import export_onnx, quantize_onnx
from gte_nb.sharing.publish import gte_share
from gte_nb.model.identity import model_hash
from test_sharing import TEXTS as AWKWARD, bert as any_bert, refusal, static as table

TEXTS = ['Read a CSV file', 'def read_csv(path):\n    return 1', '', '?', 'naïve café, Größe 日本語 😀',
    'word '*99]

def bert(seed=0, settings=None):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(TEXTS*3, 300)
    return Embedder(Encoder(EncoderConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=32,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)), tokenizer, 64, settings)

@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "A folder with both ONNX files."
    for name in ('onnx', 'onnxscript', 'onnxruntime'): pytest.importorskip(name)
    folder = tmp_path_factory.mktemp('model')
    bert().save(folder)
    assert quantize_onnx(folder) > 0.99                     # writes onnx/model.onnx, too
    return folder

@pytest.fixture
def copied(exported, tmp_path): return shutil.copytree(exported, tmp_path/'copy')

CHOICES = [('torch', 'bf16', 1e-2), ('onnx', 'fp32', 1e-5), ('onnx', 'int8', 3e-2)]

@pytest.mark.parametrize('backend, precision, tolerance', CHOICES)
def test_all_give_the_vectors_of_the_folder(backend, precision, tolerance, exported):
    embedder, how = Embedder.load(exported), dict(backend=backend, precision=precision)
    exact, vectors = embedder.encode(TEXTS), embedder.encode(TEXTS, **how)
    assert 0 < np.abs(vectors - exact).max() < tolerance
    assert np.array_equal(np.concatenate(list(embedder.encode_stream(iter(TEXTS), **how))), vectors)
    assert embedder.encode([], **how).shape == (0, 32)

@pytest.fixture
def threads():
    "Sets the number of threads; afterwards it is what it was."
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

def test_each_thread_takes_chunks_of_its_own(exported, threads, monkeypatch):
    "The same vectors in the same order with any number of threads, which an error leaves as it was."
    texts, vectors = [f"{'word '*(n % 40)}{n}" for n in range(300)], []
    for count in (1, 3):
        threads(count)
        embedder = Embedder.load(exported)
        vectors.append(embedder.encode(texts, backend='onnx'))
        assert torch.get_num_threads() == count
    assert np.abs(vectors[0] - vectors[1]).max() < 1e-6
    assert np.abs(embedder.encode(texts[7:8], backend='onnx') - vectors[0][7]).max() < 1e-6
    monkeypatch.setattr(backends.OnnxEncoder, '_states', lambda *_: 1/0)
    with pytest.raises(ZeroDivisionError): embedder.encode(texts, backend='onnx')
    assert torch.get_num_threads() == 3

@pytest.mark.parametrize('settings', [
    Settings(pooling=('lasttoken', 'max'), truncate_dim=40, normalize=False),
    Settings(layers=torch.nn.Sequential(Dense(torch.nn.Linear(32, 8).requires_grad_(False)))),
    # no graph of token ids can pool this; ours does
    Settings(prompts=dict(query='q: '), include_prompt=False),
])
def test_pooling_dense_and_prompts_are_ours(settings, exported, tmp_path):
    bert(settings=settings).save(tmp_path)
    shutil.copytree(exported/'onnx', tmp_path/'onnx')
    content = (tmp_path/'onnx'/'model.onnx').read_bytes()
    ours, theirs = model_hash(tmp_path), model_hash(exported)
    (tmp_path/'onnx'/'model.onnx').write_bytes(content.replace(theirs.encode(), ours.encode()))
    embedder = Embedder.load(tmp_path)
    for encode in (embedder.encode, embedder.encode_query):
        assert np.abs(encode(TEXTS, backend='onnx') - encode(TEXTS)).max() < 1e-5

def trained(folder):
    embedder = Embedder.load(folder)
    optimizer = torch.optim.AdamW(embedder.encoder.parameters(), lr=1e-3, fused=True)
    embedder.encode(TEXTS, backend='onnx')                  # a session is open
    embedder.embed(embedder.tokenize(TEXTS)).sum().backward()
    optimizer.step()
    return embedder

def changed_folder(folder):
    onnx = shutil.copytree(folder/'onnx', folder.parent/'onnx')
    bert(seed=1).save(folder)
    assert onnx.is_dir()
    return Embedder.load(folder)

def without_hash(folder, seed):
    "Files as other software writes them, which hold no hash; with the weights of a seed."
    import onnx
    bert(seed).save(folder)
    for file in (folder/'onnx').iterdir():
        graph = onnx.load(file)
        del graph.metadata_props[:]
        onnx.save(graph, file)
    return Embedder.load(folder)

def with_bytes(folder, name, content):
    (folder/'onnx'/name).write_bytes(content)
    return Embedder.load(folder)

def without(folder, name):
    (folder/'onnx'/name).unlink()
    return Embedder.load(folder)

BOTH = ('fp32', 'int8')

@pytest.mark.parametrize('make, precisions, says', [
    (lambda folder: bert(), BOTH, 'was made or changed in memory; save it, and export it'),
    (trained, BOTH, 'was made or changed in memory'),
    (lambda folder: Embedder.load(folder, keep_layers=()), BOTH, 'was made or changed in memory'),
    (changed_folder, BOTH, 'was exported before the folder was changed; write it with'),
    (lambda folder: without_hash(folder, 1), BOTH, 'gives other vectors than the weights of the folder'),
    (lambda folder: with_bytes(folder, 'model.onnx', b'half a file'), ['fp32'], 'model.onnx is damaged'),
    (lambda folder: without(folder, 'model.onnx'), ['fp32'], 'model.onnx is not there; write it with '
        'gte_nb.sharing.onnx.export_onnx('),
    (lambda folder: without(folder, 'model_qint8.onnx'), ['int8'], 'model_qint8.onnx is not there; write it '
        'with gte_nb.sharing.onnx.quantize_onnx('),
    (lambda folder: table(), BOTH, "a table of token vectors has nothing for ONNX to compute; leave out "
                                   "backend='onnx'"),
])
def test_what_would_be_another_vector_is_refused(make, precisions, says, copied):
    embedder = make(copied)
    for precision in precisions:
        assert says in refusal(partial(embedder.encode, TEXTS, backend='onnx', precision=precision))

@pytest.mark.parametrize('backend, precision, says', [
    ('onx', 'fp32', "there is no backend 'onx'; did you mean 'onnx'?"),
    ('jax', 'fp32', "there is no backend 'jax'; there are torch, onnx"),
    ('torch', 'fp16', "there is no precision 'fp16'; did you mean 'bf16'?"),
    ('torch', 'int8', "backend='torch' computes in fp32 or bf16; int8 is to be had with backend='onnx'"),
    ('onnx', 'bf16', "backend='onnx' computes in fp32 or int8; bf16 is to be had with backend='torch'"),
])
def test_what_is_not_to_be_had(backend, precision, says):
    assert refusal(lambda: bert().encode(TEXTS, backend=backend, precision=precision)) == says

def test_speeds_of_what_is_to_be_had(exported, tmp_path):
    "Every way that a folder offers, the fastest first; without ONNX files PyTorch alone."
    speeds = backends.backend_speeds(Embedder.load(exported), rounds=1)
    assert {*speeds} == {('torch', 'fp32'), ('torch', 'bf16'), ('onnx', 'fp32'), ('onnx', 'int8')}
    times, cosines = zip(*speeds.values())
    assert [*times] == sorted(times, reverse=True) and speeds['torch', 'fp32'][0] == 1
    assert min(cosines) > 0.95
    bert().save(tmp_path)
    speeds = backends.backend_speeds(Embedder.load(tmp_path), rounds=1)
    assert {*speeds} == {('torch', 'fp32'), ('torch', 'bf16')}

def test_without_onnx_runtime(exported, monkeypatch):
    monkeypatch.setattr(backends, 'find_spec', lambda name: None if name == 'onnxruntime'
        else util.find_spec(name))
    says = refusal(lambda: Embedder.load(exported).encode(TEXTS, backend='onnx'))
    assert says.endswith('onnxruntime, which is not installed; pip install gte_nb[onnx]')

def test_files_of_other_software(copied):
    embedder = without_hash(copied, 0)
    (copied/'onnx'/'model_qint8.onnx').rename(copied/'onnx'/'model_qint8_avx512_vnni.onnx')
    exact = embedder.encode(TEXTS)
    for precision in BOTH:
        assert np.abs(embedder.encode(TEXTS, backend='onnx', precision=precision) - exact).max() < 3e-2

def test_the_command_writes_and_lists_both(copied, capsys):
    (copied/'README.md').write_text('---\nlicense: mit\n---\n# mine\n')
    (copied/'onnx'/'model_qint8.onnx').unlink()
    gte_share(str(copied), int8=True)                       # model.onnx is of this folder, and stays
    printed = capsys.readouterr().out
    assert 'onnx/model_qint8.onnx: cosines with the exact vectors from ' in printed
    assert [printed.count(f'onnx/{name}.onnx') for name in ('model', 'model_qint8')] == [1, 2]
    bert(1).save(copied)
    with pytest.raises(SystemExit): gte_share(str(copied))
    assert 'was exported before the folder was changed' in capsys.readouterr().err

# ONNX: the graph declares what the folder's tokenizer gives, and its vectors are those of the folder.
@pytest.fixture
def onnx():
    for name in ('onnx', 'onnxscript', 'onnxruntime', 'transformers'): pytest.importorskip(name)

def runtime(folder):
    "The session of a folder's graph, and a function texts → what transformers' tokenizer gives."
    import onnxruntime
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    def given(texts): return dict(tokenizer(texts, padding=True, truncation=True, return_tensors='np'))
    return onnxruntime.InferenceSession(folder/'onnx'/'model.onnx'), given

def same_vectors(embedder, folder):
    "The graph of a folder gives its vectors, for batches of any size; returns the graph's inputs."
    session, given = runtime(folder)
    for texts in (AWKWARD, AWKWARD[:1], AWKWARD[-3:-1]):
        hidden, vectors = session.run(None, given(texts))
        assert np.abs(vectors - embedder.encode(texts)).max() < 1e-5 and hidden.shape[::2] == (len(texts), 32)
    assert model_hash(folder).encode() in (folder/'onnx'/'model.onnx').read_bytes()
    return [tensor.name for tensor in session.get_inputs()]

# BERT's tokenizer with a mean of unit length is what nbs/machinery/onnx.ipynb exports
def test_onnx_gives_the_vectors_of_the_folder(tmp_path, onnx):
    embedder = any_bert(Settings(pooling=('lasttoken', 'weightedmean'), truncate_dim=40))
    embedder.save(tmp_path)
    assert export_onnx(tmp_path) < 1e-5
    assert same_vectors(embedder, tmp_path) == ['input_ids', 'attention_mask', 'token_type_ids']

def test_onnx_where_the_version_of_transformers_decides_the_inputs(tmp_path, onnx):
    layers = torch.nn.Sequential(Dense(torch.nn.Linear(64, 8).requires_grad_(False)))
    settings = Settings(pooling=('cls', 'max'), layers=layers, normalize=False)
    embedder = any_bert(settings, own_tokenizer=True)
    embedder.save(tmp_path)
    config = json.loads((tmp_path/'tokenizer_config.json').read_text())
    del config['model_input_names']
    (tmp_path/'tokenizer_config.json').write_text(json.dumps(config))
    (tmp_path/'special_tokens_map.json').unlink()
    assert export_onnx(tmp_path) < 1e-5
    assert set(same_vectors(embedder, tmp_path)) == runtime(tmp_path)[1](AWKWARD).keys()
    assert json.loads((tmp_path/'special_tokens_map.json').read_text())['pad_token'] == '[PAD]'

def test_onnx_of_a_static_encoder(tmp_path, onnx):
    table().save(tmp_path)
    assert 'holds a table of token vectors' in refusal(lambda: export_onnx(tmp_path))

def test_onnx_of_prompts_that_are_not_pooled(tmp_path, onnx):
    any_bert(Settings(prompts=dict(query='find: '), include_prompt=False)).save(tmp_path)
    assert 'leaves its prompts out of the pooling' in refusal(lambda: export_onnx(tmp_path))

def test_onnx_where_tokenizer_json_alone_gives_other_tokens(tmp_path, onnx):
    any_bert().save(tmp_path)
    tokenizer = json.loads((tmp_path/'tokenizer.json').read_text())
    tokenizer['normalizer']['lowercase'] = False        # transformers' BertTokenizer lower-cases still
    (tmp_path/'tokenizer.json').write_text(json.dumps(tokenizer))
    assert 'give other tokens than the whole folder' in refusal(lambda: export_onnx(tmp_path))
    assert not (tmp_path/'onnx'/'model.onnx').exists()

def test_fastembed_reads_the_folder(tmp_path, onnx):
    fastembed = pytest.importorskip('fastembed')
    from fastembed.common.model_description import ModelSource, PoolingType
    embedder = any_bert(Settings(pooling=('max',)))
    embedder.save(tmp_path)
    export_onnx(tmp_path)
    source = ModelSource(hf='my/model')
    fastembed.TextEmbedding.add_custom_model('my/model', PoolingType.DISABLED, True, source, 32,
                                             'onnx/model.onnx', output_name='sentence_embedding')
    model = fastembed.TextEmbedding('my/model', specific_model_path=str(tmp_path))
    assert np.abs(np.stack(list(model.embed(AWKWARD))) - embedder.encode(AWKWARD)).max() < 1e-5
