"""Folders of sentence-transformers, transformers and model2vec: read with the vectors of the library that
wrote them, or refused by name. Each case is a folder; its id says the form of the files and what is special.
The models are tiny, with random weights, written by the installed libraries; nothing is fetched."""
import json, os, shutil, signal, subprocess, sys, threading
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from model2vec import StaticModel
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer import modules as theirs
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

import gte_nb.model.embedder
from forked import Run
from gte_nb.model.embedder import Embedder
from gte_nb.data.tokens import train_tokenizer
from gte_nb.model.encoder import Encoder, EncoderConfig, StaticEncoder
from gte_nb.model.folders import Settings, unknown_id
from gte_nb.model.weights import UnsupportedModel

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)

WORDS = ("the of a cat sat on mat read file csv write open close data frame query passage search find Big "
         "cafe : ##s ##ing ##ed").split()
LETTERS = [chr(code) for code in range(97, 123)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = list(dict.fromkeys([*SPECIAL, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]))
TEXTS = ["", "cat", "the cat sat on the mat", "Read THE Big File", "日本 unknown ☃ words",
         "café résumé naïve", "a [SEP] b [UNK] [PAD]", "reading files " * 40, "Data" * 30]
HARD = [*TEXTS, "[CLS] [MASK]", "a\u0301e\u0300", "İstanbul ǅ ß", "x" * 101, "tab\tnew\nline\u00a0\u200b",
        "\x00\ufffd", "##s ##ing", "C++ a==b a!=b", "ｆｕｌｌ width", "👩‍👩‍👧", "readCsv read_csv", "don't",
        "…“quotes”…"]
HIDDEN, POSITIONS, LIMIT = 16, 64, 32
SHAPE = dict(hidden_size=HIDDEN, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
             max_position_embeddings=POSITIONS)


def bert_tokenizer(**said): return BertTokenizer(vocab={token: i for i, token in enumerate(VOCAB)}, **said)


def bert(folder, tokenizer=None, model_class=BertModel):
    "A checkpoint of transformers."
    torch.manual_seed(0)
    model_class(BertConfig(vocab_size=len(VOCAB), **SHAPE, initializer_range=.5)).save_pretrained(folder)
    (tokenizer or bert_tokenizer(model_max_length=LIMIT)).save_pretrained(folder)
    return folder


@cache
def plain(): return bert(Path(mkdtemp())/"plain")


@cache
def plain_transformer(): return theirs.Transformer(str(plain()))          # to be written, never changed


def written(folder, *modules, **how):
    "A folder that sentence-transformers writes."
    SentenceTransformer(modules=list(modules), device="cpu", **how).save(str(folder), create_model_card=False)
    return folder


def sentence_transformer(folder, *modules, tokenizer=None, **how):
    torch.manual_seed(1)
    first = plain_transformer()
    if tokenizer: first = theirs.Transformer(str(bert(folder.parent/"plain", tokenizer)))
    return written(folder, first, *modules, **how)


def reference_of(folder, **how): return SentenceTransformer(str(folder), device="cpu", **how)


def listed_modules(folder, change):
    "Change each entry of modules.json."
    modules = json.loads((folder/"modules.json").read_text())
    for module in modules: change(module)
    (folder/"modules.json").write_text(json.dumps(modules))


def change(file, **values):
    "Set values of a JSON file; None removes one."
    said = (json.loads(file.read_text()) if file.exists() else {}) | values
    file.write_text(json.dumps({name: value for name, value in said.items() if value is not None}))


def difference(a, b): return np.abs(np.asarray(a) - np.asarray(b)).max()


# ---- the modules, and how each version wrote them -----------------------------------------------------
FLAGS = dict(cls="pooling_mode_cls_token", mean="pooling_mode_mean_tokens", max="pooling_mode_max_tokens",
             mean_sqrt_len_tokens="pooling_mode_mean_sqrt_len_tokens",
             weightedmean="pooling_mode_weightedmean_tokens", lasttoken="pooling_mode_lasttoken")
PLACES = dict(Transformer="base.modules.transformer", Dense="base.modules.dense",
              Normalize="base.modules.normalize", Pooling="sentence_transformer.modules.pooling")


def as_v6(folder): "As it is: pooling_mode and embedding_dimension, the length in tokenizer_config.json."


def as_v5(folder, flags=6, place=lambda kind: f"models.{kind}"):
    "Flags for the pooling, the length in sentence_bert_config.json, types under `models`, later elsewhere."
    def rename(module): module["type"] = f"sentence_transformers.{place(module['type'].rsplit('.')[-1])}"
    listed_modules(folder, rename)
    said = json.loads((folder/"1_Pooling/config.json").read_text())
    modes = [said["pooling_mode"]] if isinstance(said["pooling_mode"], str) else said["pooling_mode"]
    old = dict(word_embedding_dimension=said["embedding_dimension"])
    old |= {flag: mode in modes for mode, flag in list(FLAGS.items())[:flags]}
    if flags == 6: old["include_prompt"] = said["include_prompt"]
    (folder/"1_Pooling/config.json").write_text(json.dumps(old))
    for file in folder.glob("*_Normalize/config.json"): file.unlink()
    for file in folder.glob("*_Dense/config.json"):
        change(file, module_input_name=None, module_output_name=None)
    new = dict.fromkeys(("transformer_task", "modality_config", "module_output_name"))
    change(folder/"sentence_bert_config.json", max_seq_length=LIMIT, do_lower_case=False, **new)


def as_v54(folder): as_v5(folder, place=lambda kind: f"{PLACES[kind]}.{kind}")


def as_v2(folder):
    "Four flags, no prompts, and a longer model_max_length in tokenizer_config.json than the model reads."
    as_v5(folder, flags=4)
    new = dict.fromkeys(("model_type", "similarity_fn_name", "prompts", "default_prompt_name"))
    change(folder/"config_sentence_transformers.json", **new)
    change(folder/"tokenizer_config.json", model_max_length=POSITIONS, backend=None, is_local=None)


FORMS = {"v6": as_v6, "v5.4": as_v54, "v5": as_v5, "v2": as_v2}


def pooling(*modes): return lambda: theirs.Pooling(HIDDEN, modes)


def dense(out, width=HIDDEN, bias=True, activation=torch.nn.Tanh):
    return lambda: theirs.Dense(width, out, bias=bias, activation_function=activation())


MODELS = { # what is special → modules after the Transformer
    "cls": [pooling("cls")],
    "max": [pooling("max")],
    "sqrt": [pooling("mean_sqrt_len_tokens")],
    "weightedmean": [pooling("weightedmean")],
    "lasttoken": [pooling("lasttoken")],
    "all six": [pooling("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")],
    "mean then cls": [pooling("mean", "cls")],
    "mean, not normalized": [pooling("mean")],
    "mean, normalized": [pooling("mean"), theirs.Normalize],
    "cls, Dense tanh, normalized": [pooling("cls"), dense(8), theirs.Normalize],
    "two Dense, no bias, GELU": [pooling("mean"), dense(24, activation=torch.nn.Identity),
                                 dense(6, 24, bias=False, activation=torch.nn.GELU)],
    "Normalize before Dense": [pooling("mean"), theirs.Normalize, dense(8)],
    "max+mean, Dense": [pooling("max", "mean"), dense(4, 2*HIDDEN)]}
SOME = "cls", "mean, not normalized", "cls, Dense tanh, normalized"
CASES = [("v6", name) for name in MODELS] + [("v5", name) for name in MODELS if name != "mean then cls"]
CASES += [(form, name) for form in ("v5.4", "v2") for name in SOME]


def same_vectors(folder, write=True, **how):
    "sentence-transformers and this library agree on a folder, and on what this library writes of it."
    reference, embedder = reference_of(folder, **how), Embedder.load(folder)
    right, vectors = reference.encode(TEXTS), embedder.encode(TEXTS)
    assert difference(vectors, right) < 1e-5
    unit = reference.encode(TEXTS, normalize_embeddings=True)
    assert difference(embedder.encode(TEXTS, normalize=True), unit) < 1e-5
    if not write: return embedder, reference
    embedder.save(again := folder.with_name("again"))
    assert difference(Embedder.load(again).encode(TEXTS), vectors) < 1e-6
    assert difference(reference_of(again).encode(TEXTS), right) < 1e-5
    return embedder, reference


@pytest.mark.parametrize("form,name", CASES, ids=[f"{form}: {name}" for form, name in CASES])
def test_modules(tmp_path, form, name):
    folder = sentence_transformer(tmp_path/"model", *(make() for make in MODELS[name]))
    FORMS[form](folder)
    embedder, _ = same_vectors(folder, write=form == "v6")
    assert embedder.max_length == LIMIT and embedder.hidden_size == embedder.encode("cat").shape[1]


# ---- lengths, tokenizers, precision: what one file says -----------------------------------------------
def said(file, **values): return lambda folder: change(folder/file, **values)


def tokenizer_json_says_otherwise(folder):
    "transformers 5 takes the vocabulary from tokenizer.json, the rest from tokenizer_config.json."
    said = json.loads((folder/"tokenizer.json").read_text())
    said["normalizer"], said["post_processor"], said["model"]["max_input_chars_per_word"] = None, None, 3
    (folder/"tokenizer.json").write_text(json.dumps(said))


def limits_in_tokenizer_json(folder):
    tokenizer = Tokenizer.from_file(str(folder/"tokenizer.json"))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=40)
    tokenizer.save(str(folder/"tokenizer.json"))


def in_a_folder_of_its_own(folder, name):
    "0_Transformer, as sentence-transformers 1 and early 2 wrote it; 0_StaticEmbedding, as 3 and 4 did."
    (folder/name).mkdir()
    for file in list(folder.iterdir()):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(folder/name/file.name)
    def move(module): module["path"] = module["path"] or name
    listed_modules(folder, move)


def shards(folder):
    model = AutoModel.from_pretrained(folder)
    (folder/"model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="5KB")
    assert (folder/"model.safetensors.index.json").exists()


_TOKENIZER, _BERT = "tokenizer_config.json", "sentence_bert_config.json"
SAID = {
    "length, v6": said(_TOKENIZER, model_max_length=20),
    "no length": said(_TOKENIZER, model_max_length=None),
    "length beyond the positions": said(_TOKENIZER, model_max_length=10**30),
    "length, v5": said(_BERT, max_seq_length=9),
    "length in processor_kwargs": said(_BERT, max_seq_length=9, processor_kwargs=dict(model_max_length=7)),
    "length in tokenizer_args": said(_BERT, max_seq_length=9, tokenizer_args=dict(model_max_length=7)),
    "cased": said(_TOKENIZER, do_lower_case=False),
    "cased, do_lower_case": lambda folder: [said(_TOKENIZER, do_lower_case=False)(folder),
                                            said(_BERT, do_lower_case=True)(folder)],
    "accents kept": said(_TOKENIZER, strip_accents=False),
    "Chinese together": said(_TOKENIZER, tokenize_chinese_chars=False),
    "no tokenizer_config.json": lambda folder: (folder/_TOKENIZER).unlink(),
    "PreTrainedTokenizerFast": said(_TOKENIZER, tokenizer_class="PreTrainedTokenizerFast"),
    "cut on the left": said(_TOKENIZER, truncation_side="left", model_max_length=8),
    "special tokens split": said(_TOKENIZER, split_special_tokens=True),
    "dtype in model_args": said(_BERT, model_args=dict(torch_dtype="float32")),
    "truncate_dim": said("config_sentence_transformers.json", truncate_dim=5),
    "truncate_dim beyond the vector": said("config_sentence_transformers.json", truncate_dim=999),
    "tokenizer.json says otherwise": tokenizer_json_says_otherwise,
    "limits in tokenizer.json": limits_in_tokenizer_json,
    "v1: 0_Transformer": lambda folder: in_a_folder_of_its_own(folder, "0_Transformer"),
    "shards": shards}


@pytest.mark.parametrize("name", SAID)
def test_what_is_said(tmp_path, name):
    folder = sentence_transformer(tmp_path/"model", theirs.Pooling(HIDDEN, "cls"), theirs.Normalize())
    SAID[name](folder)
    embedder, reference = same_vectors(folder)
    assert embedder.max_length == reference.max_seq_length
    same_ids(tmp_path/"again", embedder)
    if name != "cased, do_lower_case": same_ids(folder/"0_Transformer" if "v1" in name else folder, embedder)


def same_ids(folder, embedder):
    "transformers' tokenizer gives the ids that are computed with."
    right = AutoTokenizer.from_pretrained(folder)(HARD, truncation=True, max_length=embedder.max_length)
    assert [ids.tolist() for ids in embedder.tokenize(HARD)] == right["input_ids"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_is_computed_in_float32(tmp_path, dtype):
    folder = sentence_transformer(tmp_path/"model", theirs.Pooling(HIDDEN, "mean"))
    half = {name: tensor.to(dtype) for name, tensor in load_file(folder/"model.safetensors").items()}
    save_file(half, folder/"model.safetensors", metadata=dict(format="pt"))
    change(folder/"config.json", dtype=str(dtype).removeprefix("torch."))
    same_vectors(folder, model_kwargs=dict(dtype=torch.float32))


@pytest.mark.parametrize("case", ["mean", "mean, prompt not pooled", "cls, prompt not pooled",
                                  "weightedmean, prompt not pooled", "lasttoken, prompt not pooled"])
def test_prompts(tmp_path, case):
    mode, _, left_out = case.partition(", ")
    folder = sentence_transformer(tmp_path/"model", theirs.Pooling(HIDDEN, mode, include_prompt=not left_out),
                                  prompts=dict(query="query : ", find="Find"), default_prompt_name="find")
    embedder, reference = same_vectors(folder)                               # with the default prompt
    for how in (dict(prompt_name="query"), dict(prompt=""), dict(prompt="a cat: ")):
        assert difference(embedder.encode(TEXTS, **how), reference.encode(TEXTS, **how)) < 1e-5, how
    assert difference(embedder.encode_query(TEXTS), reference.encode_query(TEXTS)) < 1e-5
    assert difference(embedder.encode_document(TEXTS), reference.encode_document(TEXTS)) < 1e-5
    with pytest.raises(ValueError, match="no prompt 'other'; this model has .*query"):
        embedder.encode(TEXTS, prompt_name="other")


def test_prompt_of_documents(tmp_path):
    "Prompts of queries and passages, as E5 has them; sentence-transformers 6.2 passes the latter over."
    folder = sentence_transformer(tmp_path/"model", theirs.Pooling(HIDDEN, "mean"))
    change(folder/"config_sentence_transformers.json", prompts=dict(query="query : ", passage="passage : "))
    embedder, reference = Embedder.load(folder), reference_of(folder)
    assert difference(embedder.encode_document(TEXTS), reference.encode(TEXTS, prompt_name="passage")) < 1e-5
    assert difference(embedder.encode_query(TEXTS), reference.encode_query(TEXTS)) < 1e-5


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
def test_plain_checkpoint_of_transformers(tmp_path, name):
    "Without modules.json sentence-transformers averages the tokens, and does not normalise."
    folder = bert(tmp_path/"plain", model_class=getattr(transformers, name))
    embedder, _ = same_vectors(folder)
    assert not embedder.settings.normalize


def test_tokenizer_of_another_class(tmp_path):
    "A vocabulary of sentencepiece under a BERT, as multilingual models have it: other special tokens."
    special = dict(cls_token="<s>", pad_token="<pad>", sep_token="</s>", unk_token="<unk>",
                   mask_token="<mask>")
    scores = dict.fromkeys(special.values(), 0.) | {f"▁{word}": -5. for word in WORDS}
    scores |= dict.fromkeys(LETTERS, -9.) | {"▁": -7.}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=3))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    around = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
    special |= dict(tokenizer_object=tokenizer, model_max_length=LIMIT)
    tokenizer = transformers.PreTrainedTokenizerFast(**special)
    folder = sentence_transformer(tmp_path/"model", theirs.Pooling(HIDDEN, "mean"), tokenizer=tokenizer)
    embedder, _ = same_vectors(folder)
    for name in ("model", "again"): same_ids(tmp_path/name, embedder)
    assert json.loads((tmp_path/"again/special_tokens_map.json").read_text())["pad_token"] == "<pad>"


@pytest.mark.parametrize("mode", FLAGS)
def test_gradients_of_poolings(tmp_path, mode):
    folder, some = sentence_transformer(tmp_path/"model", theirs.Pooling(HIDDEN, mode)), TEXTS[:4]
    reference, embedder = reference_of(folder).eval(), Embedder.load(folder)
    embedder.encoder.eval()
    right = reference(reference.preprocess(some))["sentence_embedding"]
    for vectors in (embedder.embed(embedder.tokenize(some)), right):
        (F.normalize(vectors, dim=1).square() * torch.arange(HIDDEN)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in reference[0].auto_model.named_parameters()}
    for name, parameter in embedder.encoder.named_parameters():
        assert difference(parameter.grad, gradients[name]) < 1e-4, name


def test_dense_is_not_trained(with_dense):
    embedder = Embedder.load(with_dense)
    with pytest.raises(ValueError, match="Dense module, which is not trained here"):
        embedder.embed(embedder.tokenize(TEXTS))
    with torch.no_grad(): assert embedder.embed(embedder.tokenize(TEXTS)).shape == (len(TEXTS), 8)


# ---- static encoders ----------------------------------------------------------------------------------
def word_pieces(limit=None):
    tokenizer = bert_tokenizer().backend_tokenizer
    if limit: tokenizer.enable_truncation(limit)
    return tokenizer


def static_embedding(folder, *modules, limit=None, dtype=torch.float32):
    torch.manual_seed(2)
    weights = torch.randn(len(VOCAB), HIDDEN).to(dtype)
    return written(folder, theirs.StaticEmbedding(word_pieces(limit), embedding_weights=weights), *modules)


STATIC = {"v6: no limit": ([], None), "v6: limit of 6": ([], 6), "v6: normalized": ([theirs.Normalize], None),
          "v6: Dense, normalized": ([dense(8), theirs.Normalize], None),
          "v3.2: 0_StaticEmbedding": ([theirs.Normalize], 6)}


@pytest.mark.parametrize("name", STATIC)
def test_static_embedding(tmp_path, name):
    "As sentence-transformers computes it: the row of [UNK] is averaged like any other."
    modules, limit = STATIC[name]
    folder = static_embedding(tmp_path/"model", *(make() for make in modules), limit=limit)
    if "v3.2" in name: in_a_folder_of_its_own(folder, "0_StaticEmbedding")
    embedder, _ = same_vectors(folder)
    assert embedder.max_length == (limit or float("inf")) and not embedder.settings.skip_unknown


def test_static_embedding_in_half_precision(tmp_path):
    "Normalize makes NaN of a text without tokens in half precision: it is read in float32, and written so."
    folder = static_embedding(tmp_path/"model", theirs.Normalize(), dtype=torch.float16)
    right = reference_of(folder).encode(TEXTS)
    assert np.isnan(right[0]).all()
    embedder = Embedder.load(folder)
    vectors = embedder.encode(TEXTS)
    assert (vectors[0] == 0).all() and difference(vectors[1:], right[1:]) < 2e-3
    embedder.encoder.half()
    embedder.save(tmp_path/"again")
    assert difference(reference_of(tmp_path/"again").encode(TEXTS), vectors) < 1e-5


def model2vec(folder, rows=None, dtype=np.float32, tokenizer=word_pieces, **how):
    tokenizer = tokenizer()
    vectors = 3 * np.random.default_rng(3).standard_normal((rows or tokenizer.get_vocab_size(), HIDDEN))
    StaticModel(vectors=vectors.astype(dtype), tokenizer=tokenizer, **how).save_pretrained(folder)
    return folder


def letters():
    "A vocabulary without a token for what is unknown, which it drops."
    return Tokenizer(models.BPE({letter: i for i, letter in enumerate([*LETTERS, " ", "A", "B"])}, []))


def pieces():
    "A vocabulary of sentencepiece, whose unknown token has another place in tokenizer.json."
    scores = {"a": -1., "<unk>": -9.} | dict.fromkeys(WORDS[3:], -2.)
    return Tokenizer(models.Unigram(list(scores.items()), unk_id=1))


WEIGHTS = np.random.default_rng(4).random(len(VOCAB))
MAPPING = np.random.default_rng(5).integers(20, size=len(VOCAB))
MODEL2VEC = {
    "normalized": dict(normalize=True), "not normalized": {},
    "no limit": dict(normalize=True, max_length=None), "limit of 7": dict(normalize=True, max_length=7),
    "weights": dict(normalize=True, weights=WEIGHTS),
    "mapping and weights": dict(rows=20, token_mapping=MAPPING, weights=WEIGHTS),
    "vectors of int8": dict(dtype=np.int8, normalize=True),
    "no unknown token": dict(tokenizer=letters, normalize=True),
    "Unigram": dict(tokenizer=pieces, normalize=True)}
UNKNOWN = ["日本", "日本 cat ☃", "the ☃ ☃ ☃ mat"]
MANY_CHARACTERS = ["word " + "x" * 5000 + " cat", " " * 4000 + "cat"]


@pytest.mark.parametrize("form", ["0.10", "0.3: no modules.json"])
@pytest.mark.parametrize("name", MODEL2VEC)
def test_model2vec(tmp_path, name, form):
    "Unknown words are left out of the mean, and a text is cut at characters before it is cut at tokens."
    folder, texts = model2vec(tmp_path/"model", **MODEL2VEC[name]), [*TEXTS, *UNKNOWN, *MANY_CHARACTERS]
    if form != "0.10": (folder/"modules.json").unlink()
    right, embedder = StaticModel.from_pretrained(folder).encode(texts), Embedder.load(folder)
    assert difference(embedder.encode(texts), right) < 1e-5
    embedder.save(tmp_path/"again")
    assert difference(Embedder.load(tmp_path/"again").encode(texts), right) < 1e-5
    assert difference(StaticModel.from_pretrained(tmp_path/"again").encode(texts), right) < 1e-5
    # sentence-transformers averages the row of zeros, which gives the same direction; it cuts no characters
    back = reference_of(tmp_path/"again").encode(texts, normalize_embeddings=True)
    right /= np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-12)
    kept = [row for row, text in enumerate(texts) if len(text) <= (embedder.settings.max_chars or len(text))]
    assert difference(back[kept], right[kept]) < 1e-5 and (len(kept) < len(texts)) == (name != "no limit")


def own_static(skip_unknown):
    torch.manual_seed(6)
    encoder, settings = StaticEncoder(len(VOCAB), HIDDEN), Settings(skip_unknown=skip_unknown)
    return Embedder(encoder, word_pieces(), 512, settings)


def test_unknown_words_are_left_out(tmp_path):
    "sentence-transformers averages a row of zeros, model2vec leaves it out: the same direction."
    embedder, texts = own_static(skip_unknown=True), [*TEXTS, *UNKNOWN]
    weight = embedder.encoder.embedding.weight
    embedder.embed(embedder.tokenize(texts)).square().sum().backward()
    assert (weight.grad[unknown_id(embedder.tokenizer)] == 0).all() and (weight.grad[5:] != 0).any()
    vectors = embedder.encode(texts)
    embedder.save(tmp_path)
    assert (vectors[texts.index("日本")] == 0).all()
    assert difference(Embedder.load(tmp_path).encode(texts), vectors) < 1e-6
    assert difference(reference_of(tmp_path).encode(texts), vectors) < 1e-5
    assert difference(StaticModel.from_pretrained(tmp_path).encode(texts), vectors) < 1e-5


def test_a_learnt_row_of_unknown_words_is_averaged(tmp_path):
    embedder, texts = own_static(skip_unknown=False), [*TEXTS, *UNKNOWN]
    embedder.save(tmp_path)
    vectors, known = embedder.encode(texts), [0, 1, 2, 3, 5, 7]
    assert difference(Embedder.load(tmp_path).encode(texts), vectors) < 1e-6
    assert difference(reference_of(tmp_path).encode(texts), vectors) < 1e-5
    assert difference(StaticModel.from_pretrained(tmp_path).encode(texts)[known], vectors[known]) < 1e-5


# ---- refused by name ----------------------------------------------------------------------------------
def listed(name):
    "A third module of that type."
    def write(folder):
        modules = json.loads((folder/"modules.json").read_text())
        (folder/"modules.json").write_text(json.dumps([*modules[:2], modules[2] | dict(type=name)]))
    return write


def renamed(old, new): return lambda folder: (folder/old).rename(folder/new)


def reordered(folder):
    (folder/"modules.json").write_text(json.dumps(json.loads((folder/"modules.json").read_text())[::-1]))


_MODEL, _DENSE, _THRESHOLD = "config_sentence_transformers.json", "2_Dense/config.json", "torch.nn.Threshold"
_POOLER = {"text": dict(method="forward", method_output_name="pooler_output")}
REFUSED = { # what stands in the message → what changes the folder
    **{name: listed(f"sentence_transformers.models.{name}") for name in (
        "Asym", "Router", "CNN", "LSTM", "LayerNorm", "Dropout", "WordWeights", "WeightedLayerPooling",
        "CLIPModel")},
    "SpladePooling": listed("sentence_transformers.sparse_encoder.models.SpladePooling"),
    "MultiVectorMask": listed("sentence_transformers.multi_vector_encoder.modules.MultiVectorMask"),
    "custom_st.Dense": listed("custom_st.Dense"),
    "Dense, Pooling, Transformer in this order": reordered,
    "the architecture roberta": said("config.json", model_type="roberta"),
    "the architecture distilbert": said("config.json", model_type="distilbert"),
    "position_embedding_type 'relative_key'": said("config.json", position_embedding_type="relative_key"),
    "hidden_act is 'laplace'": said("config.json", hidden_act="laplace"),
    "is_decoder True": said("config.json", is_decoder=True),
    "an adapter": said("adapter_config.json", peft_type="LORA"),
    "a SparseEncoder": said(_MODEL, model_type="SparseEncoder"),
    "a CrossEncoder": said(_MODEL, model_type="CrossEncoder"),
    "the Pooling 'median'": said("1_Pooling/config.json", pooling_mode="median"),
    "activation my.Activation": said(_DENSE, activation_function="my.Activation"),
    f"activation {_THRESHOLD}": said(_DENSE, activation_function=_THRESHOLD),
    "the Pooling 3": said("1_Pooling/config.json", pooling_mode=3),
    "the Pooling {'mean': True}": said("1_Pooling/config.json", pooling_mode=dict(mean=True)),
    "activation 3": said(_DENSE, activation_function=3),
    "use_residual": said(_DENSE, use_residual=True),
    "Dense module of token_embeddings": said(_DENSE, module_input_name="token_embeddings"),
    "transformer_task fill-mask": said(_BERT, transformer_task="fill-mask"),
    "query_length 8": said(_BERT, query_length=8),
    "config_args {'hidden_act': 'relu'}": said(_BERT, config_args=dict(hidden_act="relu")),
    "modality_config": said(_BERT, modality_config=_POOLER),
    "a vocabulary without tokenizer.json": renamed("tokenizer.json", "vocab.txt")}


@pytest.fixture(scope="module")
def with_dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")/"model"
    return sentence_transformer(folder, theirs.Pooling(HIDDEN, "cls"), theirs.Dense(HIDDEN, 8))


@pytest.mark.parametrize("named", REFUSED)
def test_refused(tmp_path, with_dense, named):
    shutil.copytree(with_dense, tmp_path/"model")
    REFUSED[named](tmp_path/"model")
    with pytest.raises(UnsupportedModel) as error: Embedder.load(tmp_path/"model")
    for part in (named, str(tmp_path), "load it with sentence-transformers"): assert part in str(error.value)
    assert "\n" not in str(error.value)


def cross_encoder(folder):
    bert(folder/"plain", model_class=transformers.BertForSequenceClassification)
    CrossEncoder(str(folder/"plain"), device="cpu").save(str(folder/"model"))


def splade(folder):
    checkpoint = bert(folder/"plain", model_class=transformers.BertForMaskedLM)
    modules = [theirs.Transformer(str(checkpoint), transformer_task="fill-mask"), SpladePooling()]
    SparseEncoder(modules=modules, device="cpu").save(str(folder/"model"), create_model_card=False)


def router(folder):
    static = theirs.StaticEmbedding(word_pieces(), embedding_dim=HIDDEN)
    documents = [theirs.Transformer(str(plain())), theirs.Pooling(HIDDEN, "mean")]
    written(folder/"model", Router.for_query_document([static], documents))


def lstm(folder): sentence_transformer(folder/"model", theirs.LSTM(HIDDEN, 8), theirs.Pooling(16, "mean"))


NAMED = {cross_encoder: "CrossEncoder", splade: "SparseEncoder", router: "router.Router", lstm: "lstm.LSTM"}


@pytest.mark.parametrize("write", NAMED, ids=lambda write: write.__name__)
def test_refused_as_written(tmp_path, write):
    write(tmp_path)
    with pytest.raises(UnsupportedModel, match=f"{NAMED[write]}.*load it with sentence-transformers"):
        Embedder.load(tmp_path/"model")


def test_plain_cross_encoder(tmp_path):
    folder = bert(tmp_path/"plain", model_class=transformers.BertForSequenceClassification)
    with pytest.raises(UnsupportedModel, match="BertForSequenceClassification, a cross-encoder"):
        Embedder.load(folder)


def cut(name): return lambda folder: (folder/name).write_text((folder/name).read_text()[:-40])


def holding(name, text): return lambda folder: (folder/name).write_text(text)


DAMAGED = { # what happened → how, and what the sentence says
    "tokenizer.json, cut": (cut("tokenizer.json"), "tokenizer.json is damaged .*: copy it again"),
    "tokenizer.json, other JSON": (holding("tokenizer.json", "{}"), "tokenizer.json is damaged"),
    "tokenizer.json, missing": (renamed("tokenizer.json", "old.json"), "holds no embedding model"),
    "tokenizer.json without [END]": (said(_TOKENIZER, sep_token="[END]"), "lacks .END., which BertTokenizer"),
    "modules.json, cut": (cut("modules.json"), "modules.json is damaged"),
    "modules.json, other JSON": (holding("modules.json", '[{"idx": 0}]'), "needs a list of types and paths"),
    "config.json, cut": (cut("config.json"), "config.json is damaged"),
    "1_Pooling/config.json, cut": (cut("1_Pooling/config.json"), "1_Pooling/config.json is damaged"),
    "sentence_bert_config.json": (holding(_BERT, "[1]"), "sentence_bert_config.json is damaged"),
    "default prompt": (said(_MODEL, default_prompt_name="none"), "default prompt 'none'"),
    **{f"{name} {value!r}": (said(_MODEL, **{name: value}), sentence) for name, value, sentence in (
        ("truncate_dim", -3, "truncate_dim is -3 and must be a whole number of at least 1; correct it"),
        ("truncate_dim", 0, "truncate_dim is 0"),
        ("truncate_dim", 2.5, "truncate_dim is 2.5"),
        ("truncate_dim", True, "truncate_dim is True"),
        ("truncate_dim", "x", "config_sentence_transformers.json is damaged: truncate_dim is 'x'"),
        ("prompts", ["a"], "prompts is .'a'. and must be an object of names and texts"),
        ("prompts", {"query": 3}, "prompts is .'query': 3. and must be"),
        ("default_prompt_name", 3, "default_prompt_name is 3 and must be the name of a prompt"),
        ("default_prompt_name", ["a"], "default_prompt_name is .'a'. and must be"),
        ("similarity_fn_name", 1, "similarity_fn_name is 1 and must be a name such as cosine"),
        ("skip_unknown", "yes", "skip_unknown is 'yes' and must be true or false"),
        ("max_chars", "all", "max_chars is 'all' and must be a whole number"),
        ("matryoshka_dimensions", "8", "matryoshka_dimensions is '8' and must be a list of whole numbers"),
        ("matryoshka_dimensions", [0], "matryoshka_dimensions is .0. and must be"))},
    **{f"{file} {name} {value!r}": (said(file, **{name: value}), f"asks for texts of {value!r} tokens")
       for file, name in ((_BERT, "max_seq_length"), (_TOKENIZER, "model_max_length"))
       for value in ("x", 0, 2.5, True)},
    "modules.json without a module": (holding("modules.json", "[]"), "modules.json is damaged .*no module"),
    "modules.json, type 3": (holding("modules.json", '[{"type": 3, "path": ""}]'), "modules.json is damaged"),
    "Dense as pickle": (renamed("2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"), "pickle and"),
    "Dense of another shape": (said(_DENSE, out_features=9), r"asks for a linear.weight of \(9, 16\)"),
    "Dense without bias": (said(_DENSE, bias=False), "without linear.bias"),
    "longer than the positions": (said(_BERT, max_seq_length=100), "more than the 64 positions"),
    "model.safetensors, cut": (lambda folder: os.truncate(folder/"model.safetensors", 100),
                               "model.safetensors is damaged")}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(tmp_path, with_dense, name):
    shutil.copytree(with_dense, tmp_path/"model")
    damage, sentence = DAMAGED[name]
    damage(tmp_path/"model")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as error:
        Embedder.load(tmp_path/"model")
    assert not isinstance(error.value, UnsupportedModel) and "\n" not in str(error.value)


# ---- what is written ----------------------------------------------------------------------------------
def own_bert(own_vocabulary=False):
    torch.manual_seed(7)
    tokenizer = bert_tokenizer().backend_tokenizer
    if own_vocabulary: tokenizer = train_tokenizer(["read csv files", "write the data frame"] * 9, 120)
    return Embedder(Encoder(EncoderConfig(vocab_size=tokenizer.get_vocab_size(), **SHAPE)), tokenizer, LIMIT)


@pytest.mark.parametrize("own_vocabulary", [False, True], ids=["BERT's own tokenizer", "another"])
def test_transformers_reads_what_is_written(tmp_path, own_vocabulary):
    "AutoTokenizer gives the same ids, and token types only if the folder says BertTokenizer."
    embedder = own_bert(own_vocabulary)
    embedder.save(tmp_path)
    same_ids(tmp_path, embedder)
    batch = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert ("token_type_ids" in batch) == (not own_vocabulary)
    with torch.no_grad(): hidden = AutoModel.from_pretrained(tmp_path).eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    assert difference(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1), embedder.encode(TEXTS)) < 1e-5
    said = json.loads((tmp_path/_TOKENIZER).read_text())
    assert said["tokenizer_class"] == ("PreTrainedTokenizerFast" if own_vocabulary else "BertTokenizer")
    assert said.get("model_input_names") == (["input_ids", "attention_mask"] if own_vocabulary else None)
    assert json.loads((tmp_path/"special_tokens_map.json").read_text())["cls_token"] == "[CLS]"


def test_one_kind_over_another(tmp_path, with_dense):
    "Nothing of the model before stays, and everything that is not a model's does."
    own = "README.md", "log.csv", "onnx/model.onnx", "1_Pooling/notes.txt"
    for name in own:
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_text("mine")
    files = {}
    for name, embedder in {"dense": Embedder.load(with_dense), "static": own_static(True), "bert": own_bert(),
                           "static again": own_static(False)}.items():
        embedder.save(tmp_path)
        assert difference(Embedder.load(tmp_path).encode(TEXTS), embedder.encode(TEXTS)) < 1e-6
        assert difference(reference_of(tmp_path).encode(TEXTS), embedder.encode(TEXTS)) < 1e-5
        found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        assert found.issuperset(own)
        files[name] = found.difference(own)
    table = {"config_sentence_transformers.json", "model.safetensors", "modules.json", "tokenizer.json"}
    assert files["static"] == files["static again"] == table
    beside_bert = {"config.json", _BERT, _TOKENIZER, "special_tokens_map.json", "1_Pooling/config.json"}
    assert files["bert"] == table | beside_bert
    assert files["dense"] == files["bert"] | {_DENSE, "2_Dense/model.safetensors"}


@pytest.mark.parametrize("umask,mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)], ids=oct)
def test_files_get_the_mode_of_the_umask(tmp_path, with_dense, umask, mode):
    before = os.umask(umask)
    try:
        Embedder.load(with_dense).save(tmp_path/"bert")
        own_static(True).save(tmp_path/"static")
        own_bert().encoder.save_pretrained(tmp_path/"encoder")
    finally: os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {mode}


def test_a_kill_while_saving(tmp_path):
    "A process that dies before all files are there leaves the old model whole, and the next save cleans up."
    old, new = own_bert(), own_static(True)
    old.save(tmp_path)
    new.save(tmp_path/"new")
    def dies():
        gte_nb.model.embedder.write_settings = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        Embedder.load(tmp_path/"new").save(tmp_path)
    assert Run(dies).wait()[0] == -signal.SIGKILL
    assert (tmp_path/".saving").exists()
    assert difference(Embedder.load(tmp_path).encode(TEXTS), old.encode(TEXTS)) < 1e-6
    new.save(tmp_path)
    assert not (tmp_path/".saving").exists()
    assert difference(Embedder.load(tmp_path).encode(TEXTS), new.encode(TEXTS)) < 1e-6


# ---- loading and encoding -----------------------------------------------------------------------------
def test_loading_does_not_import_the_compiler():
    "torch._dynamo takes more than a second, and random numbers on the meta device ask for it."
    code = "import sys; from gte_nb.model.embedder import Embedder; Embedder.load().encode('one')"
    code += "; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_threads_cut_texts_at_their_own_lengths():
    embedder, long, stop = own_bert(), ["reading files " * 40] * 20, threading.Event()
    embedder.max_length = 12
    right = {length: [ids.tolist() for ids in embedder.tokenize(long, length)] for length in (3, 12, 50)}
    assert [len(found[0]) for found in right.values()] == [3, 12, 50]
    wrong = []
    def ask(length):
        while not stop.is_set():
            found = [ids.tolist() for ids in embedder.tokenize(long, length)]
            if found != right[length or 12]: wrong.append(length)
    threads = [threading.Thread(target=ask, args=(length,)) for length in (3, None, 50)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads: thread.start()
        for _ in range(100): embedder.encode(long[:2])
    finally:
        stop.set()
        for thread in threads: thread.join()
        sys.setswitchinterval(interval)
    assert not wrong and embedder.tokenizer.truncation["max_length"] == 12


def test_a_module_without_its_settings_is_refused(tmp_path):
    "modules.json names it: sentence-transformers refuses such a folder, and so does this library."
    folder = sentence_transformer(tmp_path/"model", theirs.Pooling(HIDDEN, "cls"))
    Embedder.load(folder)
    (folder/"1_Pooling"/"config.json").unlink()
    with pytest.raises(ValueError, match="1_Pooling/config.json is missing, and .*modules.json names"):
        Embedder.load(folder)
