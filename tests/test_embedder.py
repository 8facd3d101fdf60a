"What an embedder takes for texts and for a length, what it refuses, and that a refusal changes nothing."
import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer

from gte_nb.data.tokens import train_tokenizer
from gte_nb.experiments.studies.truncation import truncation_rows
from gte_nb.model.embedder import Embedder, minilm_folder
from gte_nb.model.encoder import StaticEncoder

WORDS = ["b", "a long text about cats", ""]


@pytest.fixture(scope="module")
def minilm(): return Embedder.load()


@pytest.fixture(scope="module")
def static():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["def read(file): fine", "def sort(list): word"], 200, special_tokens=False)
    return Embedder(StaticEncoder(200, 8), tokenizer, max_length=128)


@pytest.mark.parametrize("texts, sentence", [
    (["fine", None], "text 1 is None (NoneType)"),
    (["fine", 7], "text 1 is 7 (int)"),
    (pd.Series(["fine", np.nan]), "text 1 is nan (float)"),
    (["fine"]*3000 + [b"bytes"], "text 3000 is b'bytes'"),
    (["fine", "half a \ud83d"], "text 1 holds half a character")], ids=lambda case: str(case)[:30])
def test_what_is_no_text_is_refused_by_row(static, texts, sentence):
    with pytest.raises(ValueError) as refusal: static.encode(texts)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("texts", [b"bytes", None, 7, {"a": "dict"}, pd.DataFrame(dict(document=WORDS)),
    np.array([WORDS]), np.array("b")], ids=lambda texts: type(texts).__name__)
def test_what_could_be_taken_for_texts_is_refused_whole(static, texts):
    sentence = f"texts come as {type(texts).__name__}, but strings are needed"
    for ask in (lambda: static.encode(texts), lambda: next(static.encode_stream(texts))):
        with pytest.raises(ValueError, match=sentence): ask()


@pytest.mark.parametrize("how, sentence", [
    (dict(dimensions=True), "dimensions is True; say how many"),
    (dict(dimensions=False), "dimensions is False"), (dict(dimensions="3"), "dimensions names '3'"),
    (dict(prompt=3), "prompt is 3; give a text"),
    (dict(prompt=["search: "]), "prompt is ['search: ']")], ids=str)
def test_arguments_of_encode(static, how, sentence):
    for ask in (static.encode, static.encode_query, static.encode_stream):
        with pytest.raises(ValueError) as refusal: next(iter(ask(WORDS, **how)))
        assert sentence in str(refusal.value)


def test_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no embedding model"): Embedder.load(tmp_path)
    wordpiece = Tokenizer.from_file(str(minilm_folder()/"tokenizer.json"))
    with pytest.raises(ValueError, match="do not belong together"): Embedder(StaticEncoder(100, 8), wordpiece)


@pytest.mark.parametrize("length", [0, -1, 2, None, 2.5, "128", 513, 10**9])
def test_a_length_that_cannot_be_read_is_refused(minilm, length):
    with pytest.raises(ValueError, match="max_length"): minilm.max_length = length
    with pytest.raises(ValueError, match="max_length"): Embedder(minilm.encoder, minilm.tokenizer, length)
    if length is not None:                                                     # None: the embedder's own
        with pytest.raises(ValueError, match="max_length"): minilm.tokenize(WORDS, length)
    # a refusal changes nothing
    assert minilm.max_length == 256 and minilm.tokenizer.truncation["max_length"] == 256


def test_a_length_decides_what_is_read(minilm, static):
    with pytest.raises(ValueError, match="a whole number from 1 up is needed"): static.max_length = 0
    for length in (512, 3):
        minilm.max_length = length
        short = "word " * (length - 2)                                 # [CLS] and [SEP] take two tokens
        assert np.abs(minilm.encode("word " * 10_000) - minilm.encode(short)).max() == 0
    minilm.max_length = 256
    with pytest.raises(ValueError, match="longer than the 512 positions"):
        minilm.embed([np.ones(513, dtype=np.int32)])


def test_lengths_of_documents_are_compared(minilm, static):
    queries, documents = ["read a file", "sort a list"], ["def read(file)", "def sort(list)"]
    rows = truncation_rows(static, queries, documents, [1, 8])
    # 'def' alone: a tie
    assert [row["tokens"] for row in rows] == [1, 8] and sorted(rows[0]["ranks"]) == [1, 2]
    for queries, documents in ([], []), (["one"], ["one", "two"]):
        with pytest.raises(ValueError, match="each query needs its document"):
            truncation_rows(static, queries, documents)
    with pytest.raises(ValueError, match="512 positions"):
        truncation_rows(minilm, ["one"], ["two"], [16, 600])
    assert static.max_length == 128 and minilm.max_length == 256
