("""Backends of `encode`: what is refused, whose folders are read, and that no file of another model answers.""")
import os, shutil
from importlib import util

os.environ.setdefault('HF_HUB_OFFLINE', '1')                # before a library reads it

import numpy as np
import pytest
import torch

from gte_nb.model import backends
from gte_nb.model.embedder import Embedder
from gte_nb.model.encoder import Encoder, EncoderConfig, StaticEncoder
from gte_nb.model.folders import Dense, Settings
from gte_nb.data.tokens import train_tokenizer
from gte_nb.sharing.onnx import export_onnx, quantize_onnx
from gte_nb.sharing.publish import gte_share

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

def refusal(function):
    "The sentence of a ValueError."
    with pytest.raises(ValueError) as raised: function()
    assert '\n' not in str(raised.value)
    return str(raised.value)

CHOICES = [('torch', 'bf16', 1e-2), ('onnx', 'fp32', 1e-5), ('onnx', 'int8', 3e-2)]

@pytest.mark.parametrize('backend, precision, tolerance', CHOICES)
def test_all_give_the_vectors_of_the_folder(backend, precision, tolerance, exported):
    embedder, how = Embedder.load(exported), dict(backend=backend, precision=precision)
    exact, vectors = embedder.encode(TEXTS), embedder.encode(TEXTS, **how)
    assert 0 < np.abs(vectors - exact).max() < tolerance
    assert np.array_equal(np.concatenate(list(embedder.encode_stream(iter(TEXTS), **how))), vectors)
    assert embedder.encode([], **how).shape == (0, 32)

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
    ours, theirs = backends.model_hash(tmp_path), backends.model_hash(exported)
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

def static(folder):
    return Embedder(StaticEncoder(300, 16), train_tokenizer(TEXTS*3, 300, special_tokens=False), 64)

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
    'with '
        'gte_nb.sharing.onnx.quantize_onnx('),
    (static, BOTH, "a table of token vectors has nothing for ONNX to compute; leave out backend='onnx'"),
])
def test_what_would_be_another_vector_is_refused(make, precisions, says, copied):
    embedder = make(copied)
    for precision in precisions:
        assert says in refusal(lambda: embedder.encode(TEXTS, backend='onnx', precision=precision))

@pytest.mark.parametrize('backend, precision, says', [
    ('onx', 'fp32', "there is no backend 'onx'; did you mean 'onnx'?"),
    ('jax', 'fp32', "there is no backend 'jax'; there are torch, onnx"),
    ('torch', 'fp16', "there is no precision 'fp16'; did you mean 'bf16'?"),
    ('torch', 'int8', "backend='torch' computes in fp32 or bf16; int8 is to be had with backend='onnx'"),
    ('onnx', 'bf16', "backend='onnx' computes in fp32 or int8; bf16 is to be had with backend='torch'"),
])
def test_what_is_not_to_be_had(backend, precision, says):
    assert refusal(lambda: bert().encode(TEXTS, backend=backend, precision=precision)) == says

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
