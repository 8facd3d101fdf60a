"""The encoder: hidden states and gradients of transformers' BertModel, and everything that is refused, in
one sentence. The models are small, with random weights in every tensor."""
import json, os, random
from copy import deepcopy

os.environ["HF_HUB_OFFLINE"] = "1"
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

from gte_nb.model.encoder import Encoder, EncoderConfig, StaticEncoder, mean_pool
from gte_nb.model.weights import ACTIVATIONS, UnsupportedModel

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)


# ---- the same as transformers -------------------------------------------------------------------------
CLASSES = transformers.BertModel, transformers.BertForMaskedLM, transformers.BertForSequenceClassification


def write_checkpoint(folder, model_class=transformers.BertModel, shard_size="5GB", **shape):
    "Random weights in every tensor, biases and gains included; returns transformers' own BertModel."
    model = model_class(transformers.BertConfig(**shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():                # gains around 1, the rest around 0
            parameter.copy_(torch.randn_like(parameter) * .05 + (parameter == 1))
    model.save_pretrained(folder, max_shard_size=shard_size)
    return getattr(model, "bert", model)


def states_and_gradients(model, mask, target, **inputs):
    "Hidden states of the tokens, and the gradient of every parameter for a scalar made from them."
    model.zero_grad()
    states = model(attention_mask=mask, **inputs)
    states = getattr(states, "last_hidden_state", states)
    (mean_pool(states, mask) * target).mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()
                 if parameter.grad is not None}
    return states[mask.bool()].detach(), gradients


def same_as_transformers(folder, peer, mask, layouts, **inputs):
    encoder = Encoder.from_pretrained(folder).eval()
    target = torch.randn(len(mask), encoder.config.hidden_size)
    right, right_gradients = states_and_gradients(peer, mask, target, **inputs)
    scale = max(1., *(gradient.abs().max().item() for gradient in right_gradients.values()))
    for encoder.packed in layouts:
        states, gradients = states_and_gradients(encoder, mask, target, **inputs)
        assert (states - right).abs().max() <= 1e-5 and gradients.keys() == right_gradients.keys()
        for name, gradient in gradients.items():
            assert (gradient - right_gradients[name]).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("case", range(20))
def test_same_as_transformers(tmp_path, case):
    """A shape drawn at random: odd head sizes, every activation, tables of odd sizes; with heads or without,
    whole or in shards; with segments and without; padded right, left and full of holes; a rectangle and
    packed. Positions are counted from column 0 in every case."""
    draw = random.Random(case)
    torch.manual_seed(case)
    heads = draw.randint(1, 5)
    shape = dict(vocab_size=draw.randint(50, 200),
                 hidden_size=heads * draw.choice([1, 3, 5, 7, 11, 13, 16, 33]),
                 num_hidden_layers=draw.randint(1, 4), num_attention_heads=heads,
                 intermediate_size=draw.randint(1, 150),
                 hidden_act=list(ACTIVATIONS)[case % len(ACTIVATIONS)],
                 max_position_embeddings=draw.randint(20, 60), type_vocab_size=draw.randint(1, 3),
                 pad_token_id=draw.choice([0, 1, None]), layer_norm_eps=draw.choice([1e-12, 1e-5]))
    ids = torch.randint(shape["vocab_size"], (5, draw.randint(6, 20)))
    lengths, columns = torch.randint(1, ids.shape[1] + 1, (5, 1)), torch.arange(ids.shape[1])
    types = torch.randint(shape["type_vocab_size"], ids.shape) if case % 2 else None
    peer = write_checkpoint(tmp_path, CLASSES[case % 3], "2KB" if case % 4 == 3 else "5GB", **shape)
    assert (tmp_path/"model.safetensors.index.json").exists() == (case % 4 == 3)
    holes = torch.rand(ids.shape) < .6
    holes[:, 0] = True
    for mask in (columns < lengths, columns >= ids.shape[1] - lengths, holes, torch.ones_like(ids)):
        layouts = (False, True) if not mask.all() else (False,)
        same_as_transformers(tmp_path, peer, mask.long(), layouts, input_ids=ids, token_type_ids=types)


@pytest.mark.parametrize("shape", [
    dict(num_hidden_layers=3, hidden_size=384, num_attention_heads=12, intermediate_size=1536),
    dict(num_hidden_layers=1),
    dict(num_hidden_layers=1, hidden_size=1024, num_attention_heads=16, intermediate_size=4096),
], ids=["MiniLM", "base", "large"])
def test_shapes_of_the_paper(tmp_path, shape):
    "True widths and heads, fewer layers and a smaller vocabulary."
    torch.manual_seed(0)
    peer = write_checkpoint(tmp_path, transformers.BertForMaskedLM, vocab_size=2000, **shape)
    mask = (torch.arange(24) < torch.tensor([[24], [9], [17], [1]])).long()
    same_as_transformers(tmp_path, peer, mask, (None,), input_ids=torch.randint(2000, mask.shape))


# ---- what an encoder is given -------------------------------------------------------------------------
SHAPE = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return Encoder(EncoderConfig(vocab_size=500, **SHAPE)).eval()


IDS = torch.tensor([[1, 7, 8, 2, 0], [1, 9, 2, 0, 0], [1, 5, 6, 4, 2]])
MASK = (IDS > 0).long()
REFUSED = { # what the message says → what is given
    "input_ids holds 500": dict(input_ids=IDS + 498 * (IDS == 2)),
    "input_ids holds -1": dict(input_ids=IDS - 1),
    "input_ids is of torch.float32": dict(input_ids=IDS.float()),
    "input_ids has shape (5,)": dict(input_ids=IDS[0], attention_mask=MASK[0]),
    "attention_mask has shape (3, 4)": dict(attention_mask=MASK[:, 1:]),
    "attention_mask is on meta": dict(attention_mask=MASK.to("meta")),
    "attention_mask holds something other": dict(attention_mask=torch.where(MASK.bool(), 0., -torch.inf)),
    "token_type_ids holds 2": dict(token_type_ids=2 * MASK),
    "token_type_ids is of torch.bool": dict(token_type_ids=MASK.bool()),
    "cut it at 512": dict(input_ids=IDS.repeat(1, 103), attention_mask=MASK.repeat(1, 103))}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_tokens(tiny, message):
    with pytest.raises(ValueError) as error:
        tiny(**dict(input_ids=IDS, attention_mask=MASK) | REFUSED[message])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_refused_by_a_table():
    with pytest.raises(ValueError, match="input_ids holds -"): StaticEncoder(500, 8)(-IDS)


def test_refused_by_the_mean():
    with pytest.raises(ValueError, match=r"hidden is \(3, 5, 8\)"): mean_pool(torch.zeros(3, 5, 8), MASK[:2])


def test_mean_of_half_precision_is_as_good_as_the_states():
    states = torch.randn(3, 5, 8).bfloat16()
    assert mean_pool(states, MASK).dtype == torch.float32
    assert torch.equal(mean_pool(states, MASK), mean_pool(states.float(), MASK))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(0, 7), (3, 0)])
def test_an_empty_batch(tiny, shape, packed):
    encoder, nothing = deepcopy(tiny), torch.zeros(shape, dtype=torch.long)
    encoder.packed = packed
    states = encoder(nothing, nothing)
    assert states.shape == (*shape, 64) and mean_pool(states, nothing).isfinite().all()


@pytest.mark.parametrize("packed", [False, True])
def test_a_text_without_a_token(tiny, packed):
    "Its vector is zero and sends no gradient; the others are what they are alone."
    encoder, mask = deepcopy(tiny), MASK * torch.tensor([[1], [0], [1]])
    encoder.packed = packed
    states = encoder(IDS, mask)
    vectors = mean_pool(states, mask)
    assert states.isfinite().all() and torch.equal(vectors[1], torch.zeros(64))
    vectors.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
    for row in (0, 2):
        alone = mean_pool(encoder(IDS[row:row+1], MASK[row:row+1]), MASK[row:row+1])[0]
        assert (vectors[row] - alone).abs().max() < 1e-5


def test_mixed_precision(tiny):
    "Under autocast the products run in bfloat16, norms and the mean in float32."
    encoder = deepcopy(tiny)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = mean_pool(encoder(IDS, MASK), MASK)
        vectors.sum().backward()
    assert vectors.dtype == torch.float32
    assert F.cosine_similarity(vectors, mean_pool(tiny(IDS, MASK), MASK)).min() > .999
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_the_compiler_finds_one_graph(tiny):
    "In double precision, because the rounding of single precision depends on the machine."
    double = deepcopy(tiny).double()
    graph, results = torch.compile(double, backend="aot_eager", fullgraph=True), []
    for model in (double, graph):
        double.zero_grad()
        states = model(IDS, MASK)
        mean_pool(states, MASK)[:, 0].sum().backward()
        results.append([states[MASK.bool()].detach(),
            *(weight.grad.clone() for weight in double.parameters())])
    for eager, compiled in zip(*results): assert (eager - compiled).abs().max() < 1e-10
    torch.compiler.reset()


# ---- configurations -----------------------------------------------------------------------------------
CONFIGS = [ # values of config.json, the error, what its message says
    *((dict([setting]), UnsupportedModel, setting[0]) for setting in dict(model_type="roberta",
        position_embedding_type="relative_key", hidden_act="laplace", is_decoder=True,
        pruned_heads={"0": [1]},
        quantization_config={"bits": 4}).items()),
    *((dict([setting]), ValueError, setting[0]) for setting in dict(hidden_size="wide", num_hidden_layers=-1,
        layer_norm_eps=0., pad_token_id=99_999).items()),
    (dict(hidden_dropout_prob=None), ValueError, "config.json"),
    (dict(attention_probs_dropout_prob=1), ValueError, "a share from 0 to below 1"),
    (dict(hidden_size=100), ValueError, "not a multiple of num_attention_heads 12"),
    ([1], ValueError, "is not a JSON object")]


@pytest.mark.parametrize("values,error,message", CONFIGS, ids=lambda value: str(value)[:40])
def test_refused_configurations(tmp_path, values, error, message):
    (tmp_path/"config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError) as raised: EncoderConfig.from_json(tmp_path/"config.json")
    assert type(raised.value) is error and message in str(raised.value)
    assert str(tmp_path/"config.json") in str(raised.value) and "\n" not in str(raised.value)


# ---- weights ------------------------------------------------------------------------------------------
QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def saved(tmp_path, tiny):
    tiny.save_pretrained(tmp_path)
    return tmp_path


def weights(change): # tensors by name → other tensors
    def damage(folder, tensors): save_file(change(tensors), folder/"model.safetensors")
    return damage


def index(text):
    def damage(folder, _):
        (folder/"model.safetensors").unlink()
        (folder/"model.safetensors.index.json").write_text(text)
    return damage


def pickled(folder, _): (folder/"model.safetensors").rename(folder/"pytorch_model.bin")


DAMAGED = { # what the message says → what happened
    "has no model.safetensors": lambda folder, _: (folder/"model.safetensors").unlink(),
    "pickle": pickled,
    "has no config.json": lambda folder, _: (folder/"config.json").unlink(),
    f"lacks the tensor {QUERY}": weights(lambda tensors: {k: v for k, v in tensors.items() if k != QUERY}),
    "has shape (64, 32), but its config.json asks for (64, 64)":
        weights(lambda tensors: tensors | {QUERY: torch.zeros(64, 32)}),
    "not quantised": weights(lambda tensors: tensors | {QUERY: torch.zeros(64, 64, dtype=torch.int8)}),
    "holds NaN": weights(lambda tensors: tensors | {QUERY: torch.full((64, 64), torch.nan)}),
    "holds the tensor encoder.layer.2.output.dense.bias":
        weights(lambda tensors: tensors | {"encoder.layer.2.output.dense.bias": torch.zeros(64)}),
    "model.safetensors is damaged": lambda folder,
    _: (folder/"model.safetensors").write_bytes(b"overwritten"),
    "needs a weight_map": index("{}"),
    "names one.safetensors, which is not there": index('{"weight_map": {"a": "one.safetensors"}}')}


@pytest.mark.parametrize("message", DAMAGED)
def test_damaged_weights(saved, tiny, message):
    DAMAGED[message](saved, tiny.state_dict())
    with pytest.raises((ValueError, FileNotFoundError)) as error: Encoder.from_pretrained(saved)
    assert message in str(error.value) and str(saved) in str(error.value)


@pytest.mark.parametrize("read", [Encoder, StaticEncoder])
def test_no_folder(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read.from_pretrained(tmp_path/"nowhere")


def test_a_bert_is_no_table(saved):
    with pytest.raises(ValueError, match="no static encoder"): StaticEncoder.from_pretrained(saved)
    save_file({"embedding.weight": torch.zeros(3)}, saved/"model.safetensors")
    with pytest.raises(ValueError, match=r"shape \(3,\), but a table"): StaticEncoder.from_pretrained(saved)


def test_names_of_old_checkpoints_and_of_those_with_a_head(saved, tiny):
    save_file({f"bert.{name}".replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
               for name, tensor in tiny.state_dict().items()}, saved/"model.safetensors")
    for name, tensor in Encoder.from_pretrained(saved).state_dict().items():
        assert torch.equal(tensor, tiny.state_dict()[name])


def test_half_precision_on_disk_is_float32_in_memory(saved, tiny):
    half = {name: tensor.bfloat16() for name, tensor in tiny.state_dict().items()}
    save_file(half, saved/"model.safetensors")
    for name, tensor in Encoder.from_pretrained(saved).state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, half[name].float())


def test_what_is_read_does_not_hang_on_the_file(saved, tiny):
    encoder = Encoder.from_pretrained(saved)
    (saved/"model.safetensors").write_bytes(b"overwritten")
    assert torch.equal(encoder.state_dict()[QUERY], tiny.state_dict()[QUERY])


def test_keep_layers(tmp_path):
    "The model is the chosen layers, in their order, and nothing else."
    with pytest.raises(ValueError, match="layer 6, but .* has layers 0 to 3"):
        torch.manual_seed(0)
        Encoder(EncoderConfig(vocab_size=500, **SHAPE | dict(num_hidden_layers=4))).save_pretrained(tmp_path)
        Encoder.from_pretrained(tmp_path, keep_layers=(0, 6))
    whole, kept = Encoder.from_pretrained(tmp_path).eval(), (3, 0, 2)
    some = Encoder.from_pretrained(tmp_path, keep_layers=kept, dropout=.3).eval()
    assert some.config.num_hidden_layers == 3 and some.config.hidden_dropout_prob == .3
    some.packed = False                                     # the rectangle, to compare bit by bit
    hidden = whole.embeddings(IDS)
    for layer in kept: hidden = whole.encoder["layer"][layer](hidden, MASK[:, None, None, :].bool())
    assert torch.equal(some(IDS, MASK), hidden)
