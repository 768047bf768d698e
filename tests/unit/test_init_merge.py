"""What `router init` does to a file that a user has already: our settings get in, everything else stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from router.cli.init_json import Json
from router.cli.init_merge import CannotMerge, Form, merged, value_at
from router.cli.init_yaml import Env, Yaml

WORDS = st.text("abcdeé\"\\/*# \n:,'{}[]", max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-99, 99) | WORDS
TREES: Any = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
MAPPINGS: Any = st.dictionaries(WORDS, TREES, max_size=4)


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
