"""What `router init` does to a file that a user has already: our settings get in, everything else stays."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from router.cli.init_json import Json
from router.cli.init_merge import CannotMerge, Form, merged, value_at
from router.cli.init_toml import Toml
from router.cli.init_yaml import Env, Yaml

WORDS = st.text("abcdeé\"\\/*# \n:,'{}[]", max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-99, 99) | WORDS
TREES: Any = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
MAPPINGS: Any = st.dictionaries(WORDS, TREES, max_size=4)
BOM = "\ufeff"


def merged_values(there: Any, wanted: Any) -> Any:
    """Return what a merge must say, for values without lists of named mappings."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        both = {key: merged_values(there.get(key), value) for key, value in wanted.items()}
        return {**there, **both}
    return wanted


@given(MAPPINGS, MAPPINGS, st.sampled_from([None, 1, 2, 4]))
def test_json_says_both_and_a_second_time_changes_nothing(
    there: Any, wanted: Any, indent: int | None
) -> None:
    text = json.dumps(there, indent=indent)
    once = merged(text, wanted, Json())
    assert json.loads(once) == merged_values(there, wanted)
    assert merged(once, wanted, Json()) == once


PLAIN = st.text("abcde", min_size=1, max_size=5)
YAML_TREES: Any = st.recursive(
    st.integers(0, 9)
    | PLAIN
    | st.sampled_from(["two words", "a: b", "# no comment", "it's", "true", "line\nline\n"]),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(PLAIN, inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(PLAIN, YAML_TREES, min_size=1, max_size=3),
    st.dictionaries(PLAIN, st.integers(0, 9), max_size=3),
)
def test_yaml_says_both_and_a_second_time_changes_nothing(there: Any, wanted: Any) -> None:
    wanted = {key: value for key, value in wanted.items() if not isinstance(there.get(key), (dict, list))}
    text = yaml.safe_dump(there, sort_keys=False)
    once = merged(text, wanted, Yaml())
    assert yaml.safe_load(once) == {**there, **wanted}
    assert merged(once, wanted, Yaml()) == once


@given(st.dictionaries(PLAIN, PLAIN, max_size=4), st.dictionaries(PLAIN, PLAIN, max_size=4))
def test_an_environment_file_says_both(there: Any, wanted: Any) -> None:
    once = merged("# mine\n" + Env().new(there), wanted, Env())
    assert value_at(once, (), Env()) == {**there, **wanted}
    assert once.startswith("# mine\n")
    assert merged(once, wanted, Env()) == once


TOML_VALUES = st.booleans() | st.integers(-99, 99) | WORDS
TOML_TABLES: Any = st.recursive(
    st.dictionaries(WORDS, TOML_VALUES, max_size=3),
    lambda inner: st.dictionaries(WORDS, TOML_VALUES | inner, max_size=3),
    max_leaves=6,
)


@given(TOML_TABLES, TOML_TABLES)
def test_toml_says_both_and_a_second_time_changes_nothing(there: Any, wanted: Any) -> None:
    text = Toml().new(there)
    assert tomllib.loads(text) == there
    try:
        once = merged(text, wanted, Toml())
    except CannotMerge:  # a table where a value stands, or the other way round
        return
    assert tomllib.loads(once) == merged_values(there, wanted)
    assert merged(once, wanted, Toml()) == once


WANTED_TOML = {"model": "auto", "tables": {"ours": {"key": "k"}}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", 'model = "auto"\n\n[tables.ours]\nkey = "k"\n'),
        ("# mine\n", '# mine\nmodel = "auto"\n\n[tables.ours]\nkey = "k"\n'),
        (
            "# mine\n\n[a] # first\nb = 1",
            '# mine\nmodel = "auto"\n\n[a] # first\nb = 1\n\n[tables.ours]\nkey = "k"\n',
        ),
        ("[a]\n", 'model = "auto"\n\n[a]\n\n[tables.ours]\nkey = "k"\n'),
        (
            "model = 'x' # one\nlong = '''\n[no.table]\n'''\n"
            "[ tables . 'ours' ]\nkey = 1 # two\nold = [\n  1,\n]\n",
            'model = "auto" # one\n'
            "long = '''\n[no.table]\n'''\n"
            "[ tables . 'ours' ]\nkey = \"k\" # two\nold = [\n  1,\n]\n",
        ),
        (
            "mine = 1 # one\n\n[tables.ours] # two\nold = 2 # three\n\n[last]\n",
            'mine = 1 # one\nmodel = "auto"\n\n[tables.ours] # two\nold = 2 # three\nkey = "k"\n\n[last]\n',
        ),
        (
            'model = "auto"\n[[tables.list]]\nkey = 1\n',
            'model = "auto"\n[[tables.list]]\nkey = 1\n\n[tables.ours]\nkey = "k"\n',
        ),
    ],
)
def test_comments_and_order_of_toml_stay(text: str, told: str) -> None:
    assert merged(text, WANTED_TOML, Toml()) == told
    assert merged(told, WANTED_TOML, Toml()) == told


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tables = { mine = 1 }\n", "written"),
        ("tables.ours.old = 1\n", "dotted keys"),
        ('tables.ours = { key = "x" }\n', "written"),
        ('model = """\nx"""\n', "on a line of its own"),
        ("model = 1\nmodel = 2\n", "not valid TOML"),
    ],
)
def test_a_form_of_toml_that_cannot_be_edited_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CannotMerge, match=reason):
        merged(text, WANTED_TOML, Toml())


def test_comments_and_spacing_of_json5_stay() -> None:
    text = (
        "// mine\n{\n  gateway: { port: 18789, }, // a port\n"
        "  models: { providers: {\n    local: {baseUrl: 'http://x'}, /* last */\n  } },\n}\n"
    )
    assert merged(text, {"models": {"providers": {"router": {"apiKey": "k"}}}}, Json()) == (
        "// mine\n{\n  gateway: { port: 18789, }, // a port\n"
        "  models: { providers: {\n    local: {baseUrl: 'http://x'}, /* last */\n"
        '    "router": { "apiKey": "k" },\n  } },\n}\n'
    )


def test_comments_of_yaml_stay_and_a_list_grows_before_what_follows_it() -> None:
    text = "# mine\nmodels:\n  - name: GPT   # a comment\n    model: gpt-x\n\n# rules\nrules:\n  - be nice\n"
    wanted = {"models": [{"name": "router", "model": "auto"}]}
    assert merged(text, wanted, Yaml()) == (
        "# mine\nmodels:\n  - name: GPT   # a comment\n    model: gpt-x\n  - name: router\n    model: auto\n"
        "\n# rules\nrules:\n  - be nice\n"
    )


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('{"models": [{"id": "other"}, {"id": "auto", "mine": 1, "size": 2}]}', Json()),
        ("models:\n- id: other\n- id: auto\n  mine: 1\n  size: 2\n", Yaml()),
    ],
    ids=["json", "yaml"],
)
def test_items_of_a_list_are_known_by_their_id(text: str, form: Form) -> None:
    once = merged(text, {"models": [{"id": "auto", "size": 3, "new": "x"}]}, form)
    assert value_at(once, ("models",), form) == [
        {"id": "other"},
        {"id": "auto", "mine": 1, "size": 3, "new": "x"},
    ]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('{"a": 1}\r\n', Json()),
        ("a = 1 # one\r\n[t]\r\nx = 2\r\n", Toml()),
        ("a: 1 # one\r\nt:\r\n  x: 2\r\n", Yaml()),
    ],
)
def test_a_byte_order_mark_stays_and_is_no_fault(text: str, form: Form) -> None:
    once = merged(BOM + text, {"a": 3, "b": 4}, form)
    assert (once.startswith(BOM), once.count(BOM)) == (True, 1)
    assert (value_at(once, ["a"], form), value_at(once, ["b"], form)) == (3, 4)
    assert merged(once, {"a": 3, "b": 4}, form) == once


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        ("[]", Json(), "a list"),
        ('["a"]', Json(), "a list"),
        ('"text"', Json(), "a text"),
        ("5", Json(), "a number"),
        ("- a", Yaml(), "a list"),
    ],
)
def test_a_file_that_holds_something_else_is_left_alone(text: str, form: Form, said: str) -> None:
    with pytest.raises(CannotMerge, match=f"it holds {said}"):
        merged(text, {"a": 1}, form)


@pytest.mark.parametrize("text", ["a: |\n  x\n  y\nb: 1", "a: >-\n  x\n\nb: 1\n", "b: 1\na: |\n  x\n"])
def test_a_block_of_text_is_replaced_whole(text: str) -> None:
    assert yaml.safe_load(merged(text, {"a": "new"}, Yaml())) == {"a": "new", "b": 1}


def test_an_edit_that_breaks_the_file_is_not_told_as_a_fault_of_the_file() -> None:
    with pytest.raises(CannotMerge, match="cannot be edited in place"):
        merged("a: &x 1\nb: *x\n", {"a": 2}, Yaml())


@pytest.mark.parametrize("text", ["models:\n", "models: []\n", "models:   # none yet\n"])
def test_an_empty_list_of_yaml_becomes_a_block(text: str) -> None:
    once = merged(text, {"models": [{"id": "auto"}]}, Yaml())
    assert yaml.safe_load(once) == {"models": [{"id": "auto"}]}


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n"])
def test_an_empty_file_becomes_ours(text: str) -> None:
    assert yaml.safe_load(merged(text, [{"id": "auto"}], Yaml())) == [{"id": "auto"}]


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        ('{\n  "a": 1\n  "b": 2\n}', Json(), "line 3: a comma or } is missing"),
        ('{"a": "x}', Json(), "line 1: a text without its closing quote"),
        ('{"a": }', Json(), "line 1: a value is missing"),
        ("{}\n{}", Json(), "line 2: more text after the end of the value"),
        ("a: [1\n", Yaml(), "it is not valid YAML"),
        ("b: {c: 1}\n", Yaml(), "written in brackets"),
    ],
)
def test_what_cannot_be_edited_is_refused_with_the_reason(text: str, form: Form, said: str) -> None:
    with pytest.raises(CannotMerge) as refused:
        merged(text, {"b": {"d": 1}}, form)
    assert said in str(refused.value)
