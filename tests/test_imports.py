"""Imports are nothing that Python's collection of garbage looks at."""

import gc

import pytest

from gm.imports import for_good


@pytest.fixture(autouse=True)
def _thawed():
    yield
    gc.unfreeze()
    gc.enable()


def test_what_is_imported_is_not_looked_at_again_and_what_comes_later_is():
    with for_good():
        assert not gc.isenabled()
        imported = [[]]
    later = [[]]
    looked_at = {id(found) for found in gc.get_objects()}
    assert gc.isenabled() and id(later) in looked_at and id(imported) not in looked_at


def test_an_import_that_fails_leaves_the_collection_on():
    with pytest.raises(ImportError), for_good():
        raise ImportError
    assert gc.isenabled()
