"Hard negatives: the rules one by one, on texts that are directions in a plane, so that each cosine is known."
import pydoc

import numpy as np
import pandas as pd
import pytest

from gte_nb.training.negatives import Rules, mine_hard_negatives

class Angles:
    "Each text is an angle in degrees."
    def encode(self, texts):
        angle = np.radians([float(text.split()[-1]) for text in texts])
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)

# the positive lies at 40°, cosine 0.77: with the absolute margin a negative has 0.72 at most, which is 44°
ONE = pd.DataFrame([('query 0', 'positive 40', 'm'), ('linked 50', 'Query  0', 'm')],
    columns=['query', 'document', 'module'])
FREE = dict(absolute_margin=None)
CASES = { # what it shows: candidates, rules, the negative
    'the most similar one': (['far 80', 'near 60'], {}, 'near 60'),
    'not the query, in whatever spelling': (['QUERY: 0', 'far 80'], {}, 'far 80'),
    'not the positive': (['Positive 40.', 'far 80'], FREE, 'far 80'),
    'not a link in the other direction': (['linked 50', 'far 80'], {}, 'far 80'),
    'not a likely false negative, above 0.72': (['wins 30', 'ties 42', 'far 80'], {}, 'far 80'),
    'unless one asks for it': (['wins 30', 'ties 42', 'far 80'], FREE, 'wins 30'),
    'nothing is left': (['wins 30', 'positive 40'], {}, ''),
    'the first of what passes is left out': (['wins 30', 'far 80', 'near 60'], dict(range_min=1), 'far 80'),
    # with two links the window of 1 is the nearest 3: query, wins, ties
    'a window': (['wins 30', 'ties 42', 'near 60'], dict(range_max=1), ''),
    # 0.9 · 0.77 = 0.69, which is 46°
    'a relative margin': (['ties 42', 'near 44.5', 'far 80'], dict(relative_margin=0.1), 'far 80'),
    'a highest score': (['near 60', 'far 80'], dict(max_score=0.4), 'far 80'),
}

@pytest.mark.parametrize('texts, rules, negative', CASES.values(), ids=CASES)
def test_a_rule(texts, rules, negative):
    pool = pd.DataFrame([('m', text) for text in texts] + [('other', 'elsewhere 45')],
        columns=['module', 'text'])
    assert mine_hard_negatives(Angles(), ONE, pool, **rules)['negative'][0] == negative

COPY, OTHER = 'i h g f e d c b a 60', 'b c d e f g h 70'                # 9 of 11 words, 7 of 11

@pytest.mark.parametrize('share, negative', [(None, COPY), (0.9, COPY), (0.8, OTHER), (0.6, '')])
def test_near_copies(share, negative):
    words = pd.DataFrame([('query 0', 'a b c d e f g h i 40', 'm')], columns=['query', 'document', 'module'])
    mined = mine_hard_negatives(Angles(), words, [COPY, OTHER], within=None, near_copies=share)
    assert mined['negative'][0] == negative

SPREAD = [f'far {angle}' for angle in range(50, 90, 2)]

def test_several_negatives():
    several = mine_hard_negatives(Angles(), ONE[:1], SPREAD, num_negatives=3, within=None)
    assert several.filter(regex='^negative_[0-9]').iloc[0].tolist() == ['far 50', 'far 52', 'far 54']
    assert np.allclose(several.filter(like='similarity').iloc[0].astype(float),
                       np.cos(np.radians([40, 50, 52, 54])))

def test_random_ones_of_a_window():
    draws = [mine_hard_negatives(Angles(), ONE[:1], SPREAD, num_negatives=2, range_min=1, range_max=6,
        within=None,
                                 sampling='random', seed=seed) for seed in (*range(40), 7)]
    drawn = {text for draw in draws for text in (draw['negative_1'][0], draw['negative_2'][0])}
    assert draws[7].equals(draws[40]) and drawn == {f'far {angle}' for angle in (52, 54, 56, 58, 60)}
    assert all(draw['negative_similarity_1'][0] > draw['negative_similarity_2'][0] for draw in draws)

def test_candidates_are_the_documents_unless_given():
    two = pd.concat([ONE[:1], ONE[:1].assign(query='query 20', document='positive 70')])
    assert mine_hard_negatives(Angles(), two, within=None)['negative'].tolist() == ['positive 70', '']

@pytest.mark.parametrize('wrong, sentence', [
    ('num_negative', 'did you mean num_negatives?'), ('absolut_margin', 'did you mean absolute_margin?'),
    ('withing', 'did you mean within?'), ('zzz', 'its rules are num_negatives, range_min')])
def test_an_unknown_rule_is_refused(wrong, sentence):
    with pytest.raises(TypeError) as error: mine_hard_negatives(Angles(), ONE, **{wrong: 1})
    assert f'{wrong} is no argument of mine_hard_negatives; ' in str(error.value) and sentence in str(
        error.value)

def test_help_describes_the_rules():
    shown = pydoc.render_doc(mine_hard_negatives, renderer=pydoc.plaintext)
    assert 'num_negatives (int, default 1): for each pair' in shown
    assert all(f'        {name} (' in shown for name in Rules.__dataclass_fields__)
