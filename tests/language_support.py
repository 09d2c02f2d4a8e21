"""What tests of language models share: their data modules without a config."""

from kdrun.domains.language.domain import LanguageConfig
from kdrun.domains.language.module import language_module
from kdrun.domains.language.shipped.made_corpus import made_corpus

COMMON = {
    **{"name": None, "val_fraction": 0.1, "test_fraction": 0.2, "split_seed": 0, "limit": {}, "labelled": None},
    **{"unlabelled": None, "labelled_share": None, "label_noise": 0.0, "long_tail": None},
    **vars(LanguageConfig()),
}


def module_of(cache, source=None, **settings):
    """The module of a source (made_corpus of 80 texts where left out), with the keys of data and data.language."""
    config = {**COMMON, "vocabulary": 300, "max_length": 48, **settings}
    return language_module(source or made_corpus(80), config, cache)
