# intent_ref: tests.projections
"""Words of documents and queries."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.search_text import TEXT_BYTES_MAX, label_term, name_term, tsquery, words_of
from tests.histories import JSON


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Deploy web", "(('deploy') & ('web'))"),
        ("deploy-web azurecr.io", "(('deploy' & 'web') & ('azurecr' & 'io'))"),
        ("deploy -web", "(('deploy') & !('web'))"),
        ('"shop front" OR backup', "(('shop' & 'front')) | (('backup'))"),
        ("OR OR a OR", "(('a'))"),
        ("", None),
        ("!!! ' \" \\ & | ( ) :* -", None),
    ],
)
def test_a_query_is_words_that_must_or_must_not_occur(query: str, expected: str | None) -> None:
    assert tsquery(query) == expected


@given(st.text())
def test_whatever_a_user_types_the_query_holds_nothing_but_words_and_our_operators(text: str) -> None:
    query = tsquery(text)
    assert query is None or re.sub(r"'[^\W_]+'", "w", query).translate({ord(c): None for c in "w&|!() "}) == ""


@given(JSON, st.text(st.characters(exclude_categories=["Cs"])))
def test_words_are_short_enough_for_the_index_and_free_of_separators(value: object, text: str) -> None:
    for word in words_of(value, text):
        assert word.isalnum()
        assert len(word.encode()) < 2_000
        assert "\n" not in word


def test_words_of_a_definition_leave_out_the_keys_that_all_have() -> None:
    definition = {"target": "production", "steps": [{"action": "build-docker_image", "image": "azurecr.io/My:1"}]}
    assert words_of(definition) == {"production", "build", "docker", "image", "azurecr", "io", "my", "1"}
    assert words_of("line\nbreak\ttab", {"k": "Grüße"}) == {"line", "break", "tab", "k", "grüsse"}


def test_what_is_too_much_is_cut_off() -> None:
    assert sum(len(word) + 4 for word in words_of(" ".join(f"w{number}" for number in range(1_000_000)))) < 4 * TEXT_BYTES_MAX


def test_terms_are_no_words_and_are_bounded() -> None:
    assert label_term("team", "web") == "#team=web"
    assert label_term("team", None) == "#team"
    assert label_term("a\nb", "c") != label_term("a", "b\nc")
    assert name_term("deploy web") == "@deploy web"
    assert len(name_term("x" * 5_000)) == 65
