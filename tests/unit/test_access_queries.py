# intent_ref: access.queries
"""Query strings: declared parameters are read, all else is refused by name."""

from urllib.parse import parse_qs, urlencode, urlsplit

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from access.http.problems import Problem
from access.http.queries import CURSOR, LIMIT, choice, page, parse, text

PARAMETERS = (text("name", "A name."), choice("status", "A status.", ("on", "off")), LIMIT, CURSOR)


def request(query: str) -> Request:
    scope = {"type": "http", "method": "GET", "path": "/api/v1/x", "query_string": query.encode("latin-1"), "headers": []}
    return Request({**scope, "server": ("127.0.0.1", 8000), "scheme": "http"})


def places(query: str) -> list[str]:
    with pytest.raises(Problem) as problem:
        parse(request(query), PARAMETERS)
    assert problem.value.code == "validation-failed"
    return [fault.pointer for fault in problem.value.faults]


def test_declared_parameters_are_read():
    found = parse(request("name=a%20b&status=on&limit=7"), PARAMETERS)
    assert found == {"name": "a b", "status": "on", "limit": 7, "cursor": None}


def test_a_parameter_that_is_misspelt_is_refused_by_name():
    assert places("nmae=x&limit=7") == ["/query/nmae"]


@pytest.mark.parametrize("limit", ["0", "201", "-1", "1.5", "x", "", "٣", "9" * 400, "1e2", " 5"])
def test_a_limit_is_a_whole_number_from_1_to_200(limit: str):
    assert places(urlencode({"limit": limit})) == ["/query/limit"]


@pytest.mark.parametrize("query", ["name=a&name=b", "name=", "name=%00", "status=ON", "name=" + "x" * 501])
def test_what_makes_no_sense_is_refused(query: str):
    assert len(places(query)) == 1


def test_all_faults_are_told_at_once():
    assert places("limit=x&status=y&z=1") == ["/query/limit", "/query/status", "/query/z"]


@given(st.text(st.characters(max_codepoint=255), max_size=100))
def test_no_query_causes_an_accident(query: str):
    try:
        parse(request(query), PARAMETERS)
    except Problem as problem:
        assert problem.code == "validation-failed"


def test_a_page_links_to_the_next_with_the_same_filters():
    answer = page(request("name=a%20b&limit=1&cursor=old"), [b'{"id":"1"}'], "n&w")
    assert orjson.loads(bytes(answer.body)) == {"items": [{"id": "1"}], "next_cursor": "n&w"}
    target, relation = answer.headers["Link"].split(";")
    assert relation.strip() == 'rel="next"'
    assert parse_qs(urlsplit(target.strip("<>")).query) == {"name": ["a b"], "limit": ["1"], "cursor": ["n&w"]}
    assert urlsplit(target.strip("<>")).path == "/api/v1/x"


def test_the_last_page_links_nowhere():
    answer = page(request(""), [], None)
    assert bytes(answer.body) == b'{"items":[],"next_cursor":null}'
    assert "Link" not in answer.headers
