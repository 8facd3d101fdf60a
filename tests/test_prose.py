"""No figure that stems from a run is typed into text: a cell computes it, so that it changes when rows do.

What looks like a result is a number with decimals, with a sign, or with a unit of a measurement. What is
none is known by its words: a setting (τ = 0.05, a rate of 0.003), a level (95% intervals), a bound that is
asked for (less than 0.02), arithmetic ($2^{-b}$), code, an address. No number is let through by a list."""
import json, re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1]/'nbs'
# notebooks that hold some; to be shortened
STILL_TYPED = ('book/10_stage_2', 'experiments/kills',
               'experiments/processes')

UNIT = (r'(?:%|percent|points?\b|times\b|seconds?\b|minutes?\b|hours?\b|core-hours?\b|ms\b|s\b|[KMG]i?B\b'
        r'|GFLOP/s)')
NUMBER = r'(?<![\w.,·/-])[-−+±]?\d[\d,]*(?:\.\d+)?'
NO_TEXT = (r'```.*?```', r'`[^`\n]*`', r'\$\$.*?\$\$', r'\$[^$\n]*\$', r'\]\([^)]*\)', r'https?://\S+',
           # code, formulas, addresses, arXiv numbers, 3·10⁻⁴
           r'\b\d{4}\.\d{4,5}\b', r'[\d,.]+·10[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+')
LEVELS = re.compile(r'(?:95|80|5|2\.5)%$')                                      # of intervals and of tests
LARGE = re.compile(r'\s(?:million|billion)')                                    # counts of what others have
SETTING = r'''(?:τ|α|β|ε|k1|b|rates?|dropout|temperatures?,?|weights?|margin|cosine|factors?|levels?
    |exponent,?|version|chapters?|deviation|Python|torch|at\ least|at\ most|up\ to|less\ than|more\ than
    |above|below|within|than)'''
IS_SET = re.compile(rf'(?:{SETTING})\s*(?:=|of|is|≤|≥|<|>|:)?\s*(?:[\d.]+(?:,|;|\ and|\ or|\ to)?\s*)*$',
    re.VERBOSE)

def results(text):
    "What looks like a typed result."
    for pattern in NO_TEXT: text = re.sub(pattern, ' ', text, flags=re.DOTALL)
    found = []
    for match in re.finditer(rf'({NUMBER})(\s?{UNIT})?', text):
        number, unit = match.groups()
        measured = '.' in number or unit or number[0] in '+−±'
        before, after = text[max(0, match.start() - 60):match.start()], text[match.end():match.end() + 30]
        allowed = LEVELS.match(match[0]) or LARGE.match(after) or IS_SET.search(before)
        if measured and not allowed: found.append(' '.join((before[-40:] + match[0] + after).split()))
    return found

@pytest.mark.parametrize('text', ['MRR@10 falls to 0.31 there.', 'It took 12 minutes.', 'twice: 3.4 times '
    'as fast', 'costs +2 points',
                                  '| arm | 0.794 |', 'a change of −0.05 on average', 'used 88% of it',
                                  'needs 51 MiB'])
def test_finds(text): assert results(text)

@pytest.mark.parametrize('text', [
    'with τ = 0.05 and α of 0.5', 'rates of 0.003, 0.01 and 0.1', '95% intervals; 5% for any wrong one',
    '400 steps of 256 pairs',
    'differ by less than 0.02', 'see `x = 0.31`', '$0.3^2$ of it', 'arXiv 2308.03281', 'at a rate of 3·10⁻⁴',
    '1.2 billion weights', 'chapter 10a, 16,384 pairs', 'the temperature, 0.005 to 0.2'])
def test_lets_through(text): assert not results(text)

def notebooks():
    for path in sorted(NOTEBOOKS.rglob('*.ipynb')):
        if not any(part[0] in '_.' for part in path.relative_to(NOTEBOOKS).parts):
            name = path.relative_to(NOTEBOOKS).with_suffix('').as_posix()
            typed = [pytest.mark.xfail(reason='still typed', strict=True)]*(name in STILL_TYPED)
            yield pytest.param(path, id=name, marks=typed)

@pytest.mark.parametrize('path', notebooks())
def test_no_typed_result(path):
    found = []
    for i, cell in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
        if cell['cell_type'] == 'markdown':
            found += [f'cell {i}: … {said} …' for said in results(''.join(cell['source']))]
    advice = 'types what looks like a result; compute it in a cell that renders Markdown, or leave it out:'
    assert not found, '\n'.join([f'{path.name} {advice}', *found])
