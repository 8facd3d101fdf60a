"The mixture sampler: a slow reference, the rows of one seed, the order of asking, processes, bad input."
from itertools import accumulate, islice
from math import ceil

import numpy as np
import pytest

from gte_nb.data.permutation import _key, keyed_permutation, splitmix64
from gte_nb.data.sampler import MixtureSampler, mixing_probs

SIZES = [45_000, 26_000, 12_000, 314]
SHELF = [700, 300, 41]


def same(batch, other): return batch[0] == other[0] and np.array_equal(batch[1], other[1])


def sample_slowly(sizes, batch_size, alpha, seed, first, last):
    "The batches of steps `first` to `last` - 1, by counting through all steps before, one by one."
    sums = list(accumulate(mixing_probs(sizes, alpha).tolist()))
    drawn = [0] * len(sizes)
    draws = splitmix64(_key(seed, 0), np.arange(last)).tolist()
    for step, bits in enumerate(draws):
        uniform = (bits >> 11) / 2**53
        source = next(source for source, total in enumerate(sums) if uniform < total / sums[-1])
        if step >= first:
            pass_number, batch = divmod(drawn[source], ceil(sizes[source] / batch_size))
            positions = np.arange(sizes[source])[batch * batch_size:(batch + 1) * batch_size]
            yield source, keyed_permutation(positions, sizes[source], _key(seed, 1 + source, pass_number))
        drawn[source] += 1


@pytest.mark.parametrize("first, last", [(0, 300), (16_334, 16_434)], ids=["the beginning", "two blocks"])
def test_it_is_what_a_loop_that_remembers_gives(first, last):
    fresh = MixtureSampler(SHELF, 64, alpha=0.3, seed=7)
    slow = sample_slowly(SHELF, 64, 0.3, 7, first, last)
    assert all(same(fresh[step], batch) for step, batch in zip(range(first, last), slow, strict=True))


def test_the_rows_of_one_seed_on_every_machine():
    "A change in these rows would change every recorded run."
    golden = MixtureSampler(SIZES, 512, seed=0)
    batches = [golden[step] for step in (0, 1, 1_000_000)]
    assert [(source, rows[:3].tolist()) for source, rows in batches] == [
        (0, [43950, 57, 2597]), (3, [100, 142, 185]), (2, [8578, 918, 2096])]
    assert all(rows.dtype == np.int64 for _, rows in batches)


def test_asking_out_of_order_changes_nothing_and_another_seed_does():
    sequence = list(islice(MixtureSampler(SHELF, 64, seed=7), 1000))           # steps 0, 1, 2, …
    fresh, other = MixtureSampler(SHELF, 64, seed=7), MixtureSampler(SHELF, 64, seed=8)
    far = {step: fresh[step] for step in (100_000, 20_000, 40_000)}            # other blocks, backwards too
    assert all(same(fresh[step], sequence[step]) for step in np.random.default_rng(0).permutation(1000))
    for step, batch in far.items():
        assert same(MixtureSampler(SHELF, 64, seed=7)[step], batch)    # asked for first
    assert sum(same(other[step], sequence[step]) for step in range(200)) == 0


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_the_shares_of_all_processes_are_the_batch(world_size):
    "Each makes its own sampler and takes its share, by stride or by stretch."
    rows = MixtureSampler(SIZES, 512, seed=1)[40_000][1]
    whole, stretches = np.empty(len(rows), int), []
    for rank in range(world_size):
        whole[rank::world_size] = MixtureSampler(SIZES, 512, seed=1)[40_000][1][rank::world_size]
        stretches.append(np.array_split(MixtureSampler(SIZES, 512, seed=1)[40_000][1], world_size)[rank])
    assert np.array_equal(whole, rows) and np.array_equal(np.concatenate(stretches), rows)


def test_a_caller_may_write_to_the_rows():
    sampler = MixtureSampler(SIZES, 512, seed=1)
    sampler[5][1][:] = -1
    assert sampler[5][1].min() >= 0


def test_probabilities():
    np.testing.assert_allclose(mixing_probs([1, 800_000_000], alpha=100), [0, 1])     # the largest takes all
    sizes = [45_000, 787, 2_000_000, 3]
    assert np.array_equal(np.array(sizes) ** 0.5, np.sqrt(sizes))                # NumPy takes the square root


@pytest.mark.parametrize("arguments, settings, sentence", [
    (([],), {}, "there is no source to draw from; give at least one size"),
    (([10, 0, 5],), {}, "source 1 has no rows (size 0); leave it out"),
    (([10, 5],), dict(alpha=-0.5), "alpha is -0.5; choose 0 or more"),
    (([10, 5],), dict(alpha=float("nan")), "alpha is nan"),
    (([10, 5],), dict(alpha=float("inf")), "alpha is inf")])
def test_refused_probabilities(arguments, settings, sentence):
    with pytest.raises(ValueError) as refusal: mixing_probs(*arguments, **settings)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("sizes, batch_size, settings, sentence", [
    ([1, 1], 512, {}, 'no source has two rows: a pair learns from the other pairs of its batch'),
    ([300, 120], 512, {},
        "batch of 512 is larger than every source (largest: 300 rows); choose --batch_size 300 or less"),
    ([300, 0], 16, {}, "source 1 has no rows"),
    ([300], 0, {}, "choose --batch_size 1 or more"),
    ([300], 16, dict(alpha=-1), "alpha is -1"),
    ([300], 16, dict(min_fill=1.5), "min_fill is 1.5"),
    ([300], 16, dict(seed=-1), "seed is -1"),
    ([300], 16, dict(seed=2**64), "choose 0 to 2**64 - 1")])
def test_refused_samplers(sizes, batch_size, settings, sentence):
    with pytest.raises(ValueError) as refusal: MixtureSampler(sizes, batch_size, **settings)
    assert sentence in str(refusal.value)


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="step is -1; steps are counted from 0"):
        MixtureSampler(SIZES, 512)[-1]
