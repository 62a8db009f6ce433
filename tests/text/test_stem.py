"""Stems are those of the published algorithm, as another implementation of it has them."""

import pytest
from nltk.stem.porter import PorterStemmer

from sparse_jax.text.features import WORD, extract
from sparse_jax.text.stem import stem

ENDINGS = """
s es ies sses ed eed ing y ational tional enci anci izer abli alli entli eli ousli ization ation
ator alism iveness fulness ousness aliti iviti biliti icate ative alize iciti ical ful ness al ance
ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize e ll le ling lled
""".split()
ROOTS = """
a tr ab trap relat hop fall controll syz toy ya eye bead fizz agre plaster mot sens vil digit oper
feudal decis hope form electr good revis allow infer airlin gyroscop adjust irrit replac depend
adopt homolog commun activ angular effect bowdler prob rat ceas roll
""".split()


def test_stems_are_those_of_another_implementation():
    reference = PorterStemmer(mode=PorterStemmer.ORIGINAL_ALGORITHM)
    words = [root + ending for root in ROOTS for ending in ENDINGS if len(root + ending) > 2]
    assert [stem(word) for word in words] == [reference.stem(word) for word in words]
    assert len({stem(word) for word in words}) < len(words) / 2


@pytest.mark.parametrize("word", ["is", "c++", "größen", "vs", "x86s", "हिन्दी", ""])
def test_words_of_other_letters_and_short_ones_stay(word):
    assert stem(word) == word


def test_inflected_words_share_a_feature_where_stems_are_asked_for():
    def words(text, stems):
        found = extract([text], num_features=1 << 20, stems=stems)
        return set(found.ids[found.kinds == WORD].tolist())

    assert words("connected boats", True) == words("connecting boat", True)
    assert not words("connected boats", False) & words("connecting boat", False)
    assert words("boat", True) == words("boat", False)
