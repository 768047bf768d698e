"""The operator's files: what loads, what each fault says and where it points."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from router.catalog.faults import Fault
from router.catalog.files import (
    CatalogFaults,
    LocalServer,
    check_catalog,
    default_directory,
    load_catalog,
    read_providers,
)
from router.catalog.lines import scan
from router.catalog.snapshot import Price, PriceRule, Snapshot

TODAY = date(2026, 11, 22)
KEYS = {"NOVITA_API_KEY": "secret"}
PROVIDER = 'name = "Novita"\nbase_url = "https://api.novita.ai/openai/"\nkey_env = "NOVITA_API_KEY"\n'
HEAD = 'name = "Kimi"\ncontext = 262_144\ninput = ["text", "image"]\n'
OFFER = '[[offers]]\nprovider = "novita"\nmodel = "kimi"\nprice = { input = 0.80, output = 3.40 }\n'
OLLAMA = 'name = "Ollama"\nbase_url = "http://127.0.0.1:11434/v1"\n'
LOCAL_OFFER = (
    '[[offers]]\nprovider = "ollama"\nmodel = "gpt-oss:20b"\nprice = { input = 0, output = 0 }\nfree = true\n'
)
RATED = "[quality]\nsimple = 78\ncoding = 80.5\nreasoning = 70\nvision = 60\nsource = 'a test'\n"


def write(directory: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def catalog(directory: Path, model: str = HEAD + RATED + OFFER, **files: str) -> Path:
    """Write a catalog with one provider and one model; `files` overrides, "__" is a slash."""
    whole = {"providers/novita.toml": PROVIDER, "models/moonshotai/kimi.toml": model}
    whole |= {name.replace("__", "/") + ".toml": text for name, text in files.items()}
    return write(directory, whole)


def load(directory: Path, **local: LocalServer) -> Snapshot:
    return load_catalog(directory, environ=KEYS, today=TODAY, local=local)


def faults(directory: Path) -> list[str]:
    snapshot, found, _ = check_catalog(directory, environ=KEYS, today=TODAY)
    assert (snapshot is None) == bool(found)
    return [str(fault) for fault in found]


def warnings(directory: Path, environ: Mapping[str, str] = KEYS) -> list[str]:
    _, found, warned = check_catalog(directory, environ=environ, today=TODAY)
    assert found == []
    return [str(warning) for warning in warned]


def test_a_small_catalog_loads_without_a_word(tmp_path: Path) -> None:
    snapshot = load(catalog(tmp_path))
    model = snapshot.models["moonshotai/kimi"]
    (offer,) = model.offers
    assert snapshot.warnings == ()
    assert snapshot.files == 2
    assert (model.max_output, model.features, model.open_weights) == (262_144, frozenset(), False)
    assert model.quality == {"simple": 78.0, "coding": 80.5, "reasoning": 70.0, "vision": 60.0}
    assert offer.price == Price(800_000, 3_400_000, 800_000, 800_000)
    assert (offer.context, offer.input, offer.unusable) == (
        262_144,
        frozenset({"text", "image"}),
        None,
    )
    provider = snapshot.providers["novita"]
    assert (provider.title, provider.base_url) == ("Novita", "https://api.novita.ai/openai")
    assert (provider.pays, provider.timeouts.first_byte, provider.transport) == ("key", 120.0, "fast")
    assert provider.output_limit == "max_tokens"
    assert snapshot.policy.bands["coding"] == {"quality": 0.0, "balanced": 5.0, "cost": 15.0}
    assert snapshot.policy.expected_output_tokens == {
        "simple": 250,
        "coding": 900,
        "reasoning": 1_500,
        "vision": 300,
    }
    assert (snapshot.policy.time_value_nusd_per_s, snapshot.policy.markup_ppm) == (100_000, 1_000_000)


def test_an_offer_overrides_its_model(tmp_path: Path) -> None:
    head = HEAD + 'max_output = 65_536\nfeatures = ["tools", "reasoning"]\n'
    extra = (
        'context = 8_192\nfeatures = ["tools"]\ninput = ["text"]\nspeed = { tok_s = 80 }\n'
        "limits = { rpm = 60 }\ncharge = { input = 1, output = 4.5, cache_read = 0.5 }\nenabled = false\n"
    )
    (offer,) = load(catalog(tmp_path, head + OFFER + extra)).models["moonshotai/kimi"].offers
    assert (offer.context, offer.max_output, offer.features, offer.input) == (
        8_192,
        8_192,
        frozenset({"tools"}),
        frozenset({"text"}),
    )
    assert (offer.tok_s, offer.limits.rpm, offer.limits.tpm) == (80.0, 60, None)
    assert offer.charge == Price(1_000_000, 4_500_000, 500_000, 1_000_000)
    assert offer.unusable == "set enabled = true in its catalog file"


def test_prices_stay_exact(tmp_path: Path) -> None:
    offer = OFFER.replace("0.80, output = 3.40", "0.14, output = 0.000001, cache_read = 0.0028")
    (loaded,) = load(catalog(tmp_path, HEAD + offer)).models["moonshotai/kimi"].offers
    assert loaded.price == Price(input=140_000, output=1, cache_read=2_800, cache_write=140_000)


def test_rules_become_integers_and_the_cache_follows_the_input(tmp_path: Path) -> None:
    rules = (
        "when = [\n  { above_input = 200_000, input = 1.6, output = 6.8 },\n"
        '  { utc = "22:30-04:00", days = "fri-mon,wed", multiply = 0.5 },\n'
        "  { starts = 2026-12-01T00:00:00Z, cache_read = 0.1 },\n]\n"
    )
    (offer,) = load(catalog(tmp_path, HEAD + OFFER + rules)).models["moonshotai/kimi"].offers
    assert offer.when == (
        PriceRule(
            above_input=200_000,
            input=1_600_000,
            output=6_800_000,
            cache_read=1_600_000,
            cache_write=1_600_000,
        ),
        PriceRule(utc=(22 * 60 + 30, 240), days=frozenset({4, 5, 6, 0, 2}), multiply_ppm=500_000),
        PriceRule(starts=datetime(2026, 12, 1, tzinfo=UTC), cache_read=100_000),
    )


def test_a_rule_leaves_a_written_cache_price_alone(tmp_path: Path) -> None:
    offer = OFFER.replace("3.40", "3.40, cache_read = 0.16") + "when = [{ above_input = 9, input = 1.6 }]\n"
    (loaded,) = load(catalog(tmp_path, HEAD + offer)).models["moonshotai/kimi"].offers
    assert (loaded.when[0].cache_read, loaded.when[0].cache_write) == (None, 1_600_000)


@pytest.mark.parametrize(
    ("model", "line", "said"),
    [
        (
            HEAD + 'featurs = ["tools"]\n' + OFFER,
            4,
            'featurs: unknown field "featurs"; did you mean "features"?',
        ),
        (
            HEAD + 'features = ["tolls"]\n' + OFFER,
            4,
            'features[0]: unknown word "tolls"; did you mean "tools"?',
        ),
        (HEAD + OFFER.replace("novita", "novitta"), 5, 'offers[0].provider: unknown provider "novitta"; did'),
        (HEAD + "[quality]\ncodign = 3\nsource = 'x'\n" + OFFER, 5, 'quality.codign: unknown field "codign"'),
        (HEAD + OFFER.replace("0.80", "-0.80"), 7, "offers[0].price.input: a price may not be negative"),
        (HEAD + OFFER.replace("0.80", "0.8000001"), 7, "offers[0].price.input: at most 6 digits"),
        (HEAD + OFFER.replace("0.80", "inf"), 7, "offers[0].price.input: write a number of a usual size"),
        (HEAD + OFFER.replace("0.80", "1e400"), 7, "offers[0].price.input: write a number of a usual size"),
        (HEAD + OFFER.replace("0.80", f"0.8{'0' * 40}1"), 7, "offers[0].price.input: at most 6 digits"),
        (HEAD + OFFER.replace("0.80", "true"), 7, "offers[0].price.input: write a number"),
        (HEAD + OFFER.replace("0.80", '"0.80"'), 7, "offers[0].price.input: write a number without quotes"),
        (HEAD + OFFER.replace("0.80", "900_000"), 7, "offers[0].price.input: above 100,000 USD per million"),
        (
            HEAD + OFFER.replace("0.80, output = 3.40", "0, output = 0"),
            7,
            "offers[0].price: input and output are",
        ),
        (HEAD + OFFER + "free = true\n", 8, "offers[0].free: free = true, but the price is not 0"),
        (
            HEAD + OFFER.replace("3.40", "3.40, cache_read = 0.9"),
            7,
            "offers[0].price.cache_read: cache_read 0.9",
        ),
        (HEAD + "max_output = 262_145\n" + OFFER, 4, "max_output: max_output 262_145 is above the context"),
        (HEAD + OFFER + "context = 300_000\n", 8, "offers[0].context: context 300_000 is above the model's"),
        (HEAD + OFFER + "max_output = 300_000\n", 8, "offers[0].max_output: max_output 300_000 is above"),
        (HEAD + OFFER + 'input = ["audio"]\n', 8, 'offers[0].input: "audio" is not in the model\'s input'),
        (
            HEAD + OFFER + "when = [\n{ above_input = 9, input = 1 },\n{ above_input = 8, input = 2 },\n]\n",
            10,
            "offers[0].when[1].above_input: tiers must ascend: 8 comes after 9",
        ),
        (
            HEAD + OFFER + 'when = [{ utc = "1:00-04:00", multiply = 2 }]\n',
            8,
            "offers[0].when[0].utc: malformed",
        ),
        (
            HEAD + OFFER + 'when = [{ utc = "04:00-04:00", multiply = 2 }]\n',
            8,
            "offers[0].when[0].utc: malformed",
        ),
        (
            HEAD + OFFER + 'when = [{ utc = "04:00-24:01", multiply = 2 }]\n',
            8,
            "offers[0].when[0].utc: malformed",
        ),
        (
            HEAD + OFFER + 'when = [{ days = "mon-fry", multiply = 2 }]\n',
            8,
            "offers[0].when[0].days: malformed",
        ),
        (
            HEAD + OFFER + "when = [{ above_input = 5, multiply = 0 }]\n",
            8,
            "offers[0].when[0].multiply: write a",
        ),
        (HEAD + OFFER + "when = [{ above_input = 5 }]\n", 8, "offers[0].when[0]: changes nothing"),
        (HEAD + OFFER + "when = [{ input = 0.1 }]\n", 8, "offers[0].when[0]: holds always"),
        (
            HEAD + OFFER + "when = [{ above_input = 5, cache_read = 0.9 }]\n",
            8,
            "offers[0].when[0]: cache_read",
        ),
        (HEAD + "[quality]\ncoding = 101\nsource = 'x'\n" + OFFER, 5, "quality.coding: must be at most 100"),
        (HEAD + "[quality]\ncoding = 50\n" + OFFER, 4, "quality.source: this field is required"),
        (HEAD + OFFER + OFFER, 8, 'offers[1]: "kimi" at "novita" is offers[0] already'),
        (
            'name = "K"\ncontext = 9\ninput = ["text"]\n[quality]\nvision = 5\nsource = "x"\n' + OFFER,
            5,
            'quality.vision: a vision quality needs "image" in input',
        ),
        ('name = "K"\ninput = ["text"]\n' + OFFER, 1, "context: this field is required"),
        (HEAD + 'retires = "2027-01-31"\n' + OFFER, 4, "retires: write a date without quotes"),
        (HEAD + "context = 3\n", 4, "not TOML: Cannot overwrite a value"),
        (HEAD + "offers = 3\n", 4, "offers: write each offer below its own [[offers]]"),
    ],
)
def test_each_fault_of_a_model_names_its_line(tmp_path: Path, model: str, line: int, said: str) -> None:
    (only,) = faults(catalog(tmp_path, model))
    assert only.startswith(f"models/moonshotai/kimi.toml:{line}: {said}")


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("https://api.novita.ai/openai/", "ftp://novita.ai"), 2, "base_url: write an http or https address"),
        (("https://api", "https://me:pw@api"), 2, "base_url: no user or password"),
        (("openai/", "openai?key=1"), 2, "base_url: no query"),
        (("https://api.novita.ai/openai/", "http://169.254.169.254/v1"), 2, "base_url: link-local"),
        (("https://api.novita.ai/openai/", "http://[::ffff:169.254.1.1]/v1"), 2, "base_url: link-local"),
        (("https://api.novita.ai/openai/", "http://h:99999/"), 2, "base_url: not an address"),
        (("key_env", "key_emv"), 3, 'key_emv: unknown field "key_emv"; did you mean "key_env"?'),
        (("NOVITA_API_KEY", "sk-live-1234"), 3, "key_env: write the name of an environment variable"),
        (("NOVITA_API_KEY", "gsk_4ft2examplekey00"), 3, "key_env: write the name of an environment variable"),
        (("NOVITA_API_KEY", "hf_aBcDeFgHiJkLmNoPqRs"), 3, "key_env: write the name of an environment"),
        (("key_env =", 'pays = "key" #'), 3, 'pays: pays = "key" needs key_env'),
        (("key_env", 'pay_to = "0x1"\nkey_env'), 3, "pay_to: pay_to pins"),
        (("key_env", 'headers = { Authorization = "x" }\nkey_env'), 3, 'headers: "Authorization" is set by'),
        (("key_env", "timeout_s = { idle = 0 }\nkey_env"), 3, "timeout_s.idle: must be above 0"),
        (("key_env", 'protocol = "grpc"\nkey_env'), 3, 'protocol: unknown word "grpc" (known: openai)'),
    ],
)
def test_each_fault_of_a_provider_names_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, said: str
) -> None:
    (only,) = faults(catalog(tmp_path, providers__novita=PROVIDER.replace(*change)))
    assert only.startswith(f"providers/novita.toml:{line}: {said}")


@pytest.mark.parametrize("name", ["NOVITA_API_KEY", "novita_key", "the_key_of_our_novita_account", "Novita2"])
def test_any_name_of_a_variable_may_hold_a_key(tmp_path: Path, name: str) -> None:
    load(catalog(tmp_path, providers__novita=PROVIDER.replace("NOVITA_API_KEY", name)))


def test_a_file_may_begin_with_the_mark_of_windows_editors(tmp_path: Path) -> None:
    directory = catalog(tmp_path)
    (directory / "providers/novita.toml").write_text(PROVIDER, encoding="utf-8-sig")
    load(directory)
    (directory / "providers/novita.toml").write_text(PROVIDER.replace("https", "ftp"), encoding="utf-8-sig")
    (only,) = faults(directory)
    assert only.startswith("providers/novita.toml:2: base_url")


@pytest.mark.parametrize(
    "name", ["novita_api_key_prod_1", "OpenRouter_API_Key_Prod", "AZURE_OPENAI_API_KEY_2"]
)
def test_long_names_of_variables_are_no_keys(tmp_path: Path, name: str) -> None:
    load(catalog(tmp_path, providers__novita=PROVIDER.replace("NOVITA_API_KEY", name)))


def test_a_pasted_key_is_not_repeated(tmp_path: Path) -> None:
    text = PROVIDER.replace("NOVITA_API_KEY", "sk-live-1234")
    assert "sk-live" not in "\n".join(faults(catalog(tmp_path, providers__novita=text)))


@pytest.mark.parametrize(
    ("policy", "line", "said"),
    [
        ('mode = "balansed"\n', 1, 'mode: unknown word "balansed"; did you mean "balanced"?'),
        ("[bands.codin]\ncost = 3\n", 1, 'bands.codin: unknown field "codin"; did you mean "coding"?'),
        ("[bands.coding]\ncost = 300\n", 2, "bands.coding.cost: must be at most 100"),
        ('baseline = "moonshotai/kimmi"\n', 1, 'baseline: unknown model "moonshotai/kimmi"; did you mean'),
        ('[aliases]\nme = "me"\n', 2, "aliases.me: goes round in a loop: me -> me"),
        ('[aliases]\nfast = "moonshotai/kimmi"\n', 2, 'aliases.fast: unknown model "moonshotai/kimmi"; did'),
        ('[aliases]\nauto = "moonshotai/kimi"\n', 2, 'aliases.auto: "auto" is a model name already'),
        ("markup = 0\n", 1, "markup: write a factor above 0"),
        ("time_value_usd_per_s = 0.0000000001\n", 1, "time_value_usd_per_s: write 0 to 1,000 USD"),
    ],
)
def test_each_fault_of_the_policy_names_its_line(tmp_path: Path, policy: str, line: int, said: str) -> None:
    (only,) = faults(catalog(tmp_path, policy=policy))
    assert only.startswith(f"policy.toml:{line}: {said}")


def test_a_fault_stays_on_one_line(tmp_path: Path) -> None:
    rule = r'when = [{ utc = "a\nb\u001b[2J", multiply = 2 }]'
    (only,) = faults(catalog(tmp_path, HEAD + OFFER + rule))
    assert r'malformed window "a\nb\x1b[2J"' in only


def test_all_faults_of_all_files_come_at_once(tmp_path: Path) -> None:
    model = (
        'name = "K"\ncontext = 1_000\nmax_output = 2_000\ninput = ["text", "imagee"]\n'
        + OFFER.replace("0.80", "-1")
        + "[[offers]]\nprovider = 'novita'\nmodel = 'b'\nprice.input = 1\n"
        "price.output = 2\nprice.cache_read = 3\nwhen = [\n  { above_input = 5, input = 2 },  # }\n"
        "  { above_input = 5, inptu = 2 },\n]\ncontext = 2_000\n"
    )
    directory = catalog(tmp_path, model, policy="mode = 3\n", providers__b="name = [\n", polici="")
    found = check_catalog(directory, environ=KEYS, today=TODAY)[1]
    assert {(fault.file.rpartition("/")[2], fault.line, fault.path) for fault in found} == {
        ("kimi.toml", 3, "max_output"),
        ("kimi.toml", 4, "input[1]"),
        ("kimi.toml", 8, "offers[0].price.input"),
        ("kimi.toml", 14, "offers[1].price.cache_read"),
        ("kimi.toml", 16, "offers[1].when[0]"),
        ("kimi.toml", 17, "offers[1].when[1].above_input"),
        ("kimi.toml", 17, "offers[1].when[1].inptu"),
        ("kimi.toml", 19, "offers[1].context"),
        ("b.toml", 1, ""),
        ("polici.toml", 1, ""),
        ("policy.toml", 1, "mode"),
    }
    with pytest.raises(CatalogFaults) as caught:
        load(directory)
    assert caught.value.faults == tuple(found)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("modles/a/b.toml", 'nothing reads this file; did you mean "models"?'),
        ("models/A/b.toml", "the id (the path below models/) has only a-z"),
        ("models/a/b c.toml", "the id (the path below models/) has only a-z"),
        ("providers/x/y.toml", "nothing reads this file"),
        ("models/auto.toml", 'the id "auto" is a name of the router\'s own'),
        ("models/auto:cost.toml", 'the id "auto:cost" is a name of the router\'s own'),
        ("models/router/coding.toml", 'the id "router/coding" is a name of the router\'s own'),
    ],
)
def test_a_file_that_nothing_reads_is_a_fault(tmp_path: Path, file: str, said: str) -> None:
    (only,) = faults(write(catalog(tmp_path), {file: OFFER}))
    assert only.startswith(f"{file}:1: {said}")


def test_editors_files_and_notes_are_ignored(tmp_path: Path) -> None:
    revision = load(catalog(tmp_path)).revision
    names = ["README.md", "models/a/README.md", ".git/x.toml", "models/a/.#x.toml", "models/a/x.toml~"]
    names += ["models/a/.x.toml.swp", "policy.toml.bak", "#policy.toml#", "models/a/4913"]
    write(tmp_path, dict.fromkeys(names, "= not toml"))
    snapshot = load(tmp_path)
    assert (snapshot.revision, snapshot.files, snapshot.warnings) == (revision, 2, ())


def test_a_stray_file_is_a_warning(tmp_path: Path) -> None:
    assert warnings(write(catalog(tmp_path), {"notes.json": "{}"})) == [
        "notes.json:1: not read: a catalog consists of .toml files"
    ]


def test_the_old_text_is_the_old_revision(tmp_path: Path) -> None:
    first = load(catalog(tmp_path)).revision
    second = load(catalog(tmp_path, policy="markup = 1.2\n")).revision
    (tmp_path / "policy.toml").unlink()
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert second != first
    assert load(tmp_path).revision == first
    (tmp_path / "models/moonshotai/kimi.toml").rename(tmp_path / "models/moonshotai/kimi-2.toml")
    assert load(tmp_path).revision != first


def test_a_directory_that_is_no_catalog_is_a_fault(tmp_path: Path) -> None:
    assert "no catalog here" in faults(tmp_path)[0]
    assert "no such directory" in faults(tmp_path / "nowhere")[0]


def test_text_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    (catalog(tmp_path) / "policy.toml").write_bytes(b'mode = "cost"\n# \xff\n')
    assert faults(tmp_path) == ["policy.toml:2: not UTF-8; save the file as UTF-8"]


def test_linked_folders_are_read_and_a_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    catalog(tmp_path / "real")
    for name in ("models", "providers"):
        (tmp_path / "mounted" / name).symlink_to(tmp_path / "real" / name)
    assert list(load(tmp_path / "mounted").models) == ["moonshotai/kimi"]
    (tmp_path / "real/models/moonshotai/again").symlink_to(tmp_path / "real/models")
    assert "moonshotai/again/moonshotai/kimi" in load(tmp_path / "mounted").models


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (HEAD + RATED + OFFER.replace("3.40", "0"), "kimi.toml:13: offers[0].price.output: output costs 0"),
        (
            HEAD + RATED + OFFER + "price_as_of = 2026-08-23\n",
            "kimi.toml:14: offers[0].price_as_of: the price is 91",
        ),
        (HEAD + "retires = 2026-12-22\n" + RATED + OFFER, "kimi.toml:4: retires: retires in 30 days"),
        (
            HEAD + "max_output = 262_144\n" + RATED + OFFER,
            "kimi.toml:4: max_output: max_output equals the context",
        ),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(tmp_path: Path, model: str, said: str) -> None:
    (only,) = warnings(catalog(tmp_path, model))
    assert said in only


@pytest.mark.parametrize("extra", ["price_as_of = 2026-08-24\n", "max_output = 65_536\n"])
def test_the_edge_of_a_warning_is_silent(tmp_path: Path, extra: str) -> None:
    assert warnings(catalog(tmp_path, HEAD + RATED + OFFER + extra)) == []
    assert warnings(catalog(tmp_path, HEAD + "retires = 2026-12-23\n" + RATED + OFFER)) == []


@pytest.mark.parametrize("environ", [{}, {"NOVITA_API_KEY": ""}])
def test_an_unset_key_turns_offers_off_and_warns_once(tmp_path: Path, environ: dict[str, str]) -> None:
    directory = catalog(tmp_path)
    assert warnings(directory, environ) == [
        "providers/novita.toml:3: key_env: NOVITA_API_KEY is not set; 1 offer is off"
    ]
    snapshot = load_catalog(directory, environ=environ, today=TODAY)
    assert snapshot.models["moonshotai/kimi"].offers[0].unusable == "set NOVITA_API_KEY"


def test_a_retired_model_has_no_usable_offer(tmp_path: Path) -> None:
    snapshot = load(catalog(tmp_path, HEAD + "retires = 2026-11-22\n" + OFFER))
    assert snapshot.models["moonshotai/kimi"].offers[0].unusable == "retired on 2026-11-22"


def test_a_category_that_nobody_serves_is_a_warning(tmp_path: Path) -> None:
    only_simple = HEAD + "[quality]\nsimple = 5\nsource = 'x'\n" + OFFER
    assert [text.partition(": no model")[0] for text in warnings(catalog(tmp_path, only_simple))] == [
        "policy.toml:1: bands.coding",
        "policy.toml:1: bands.reasoning",
        "policy.toml:1: bands.vision",
    ]


def test_a_price_that_jumps_is_a_warning_against_the_running_catalog(tmp_path: Path) -> None:
    running = load(catalog(tmp_path))
    catalog(tmp_path, HEAD + RATED + OFFER.replace("0.80", "0.15").replace("3.40", "3.00"))
    warned = check_catalog(tmp_path, environ=KEYS, today=TODAY, running=running)[2]
    assert [str(warning) for warning in warned] == [
        "models/moonshotai/kimi.toml:13: offers[0].price.input: "
        "input moved from 0.8 to 0.15 USD per million tokens; is it meant?"
    ]


def test_aliases_are_followed_to_their_end(tmp_path: Path) -> None:
    policy = '[aliases]\n"gpt-4o" = "mine"\nmine = "moonshotai/kimi"\ncheap = "auto:floor"\n'
    assert load(catalog(tmp_path, policy=policy)).policy.aliases == {
        "gpt-4o": "moonshotai/kimi",
        "mine": "moonshotai/kimi",
        "cheap": "auto:floor",
    }


def test_a_policy_is_read_whole(tmp_path: Path) -> None:
    policy = (
        'mode = "cost"\nmarkup = 1.25\ntime_value_usd_per_s = 0.002\nbaseline = "moonshotai/kimi"\n'
        "[bands.vision]\ncost = 30\n[limits]\nqueue_s = 2.5\noutput_tokens = 900\n[sessions]\nidle_s = 60\n"
        "[expected_output_tokens]\ncoding = 2_000\n"
    )
    read = load(catalog(tmp_path, policy=policy)).policy
    assert (read.mode, read.markup_ppm, read.time_value_nusd_per_s) == ("cost", 1_250_000, 2_000_000)
    assert (read.baseline, read.queue_s, read.session_idle_s) == ("moonshotai/kimi", 2.5, 60.0)
    assert read.output_tokens == 900
    assert read.bands["vision"] == {"quality": 0.0, "balanced": 5.0, "cost": 30.0}
    assert read.expected_output_tokens["coding"] == 2_000


def test_local_offers_need_a_server_that_has_the_model(tmp_path: Path) -> None:
    directory = catalog(tmp_path, HEAD + LOCAL_OFFER, providers__ollama=OLLAMA)

    def state(**local: LocalServer) -> str | None:
        return load(directory, **local).models["moonshotai/kimi"].offers[0].unusable

    assert state() == "nothing answers on 127.0.0.1:11434 (start Ollama)"
    assert state(ollama=LocalServer({})) == 'ollama has no model "gpt-oss:20b" (run: ollama pull gpt-oss:20b)'
    assert state(ollama=LocalServer({"gpt-oss:20b": None})) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:9999/v1", "http://10.0.0.5:11434/v1"])
def test_other_keyless_providers_are_usable(tmp_path: Path, url: str) -> None:
    provider = OLLAMA.replace("http://127.0.0.1:11434/v1", url)
    snapshot = load(catalog(tmp_path, HEAD + LOCAL_OFFER, providers__ollama=provider))
    assert snapshot.models["moonshotai/kimi"].offers[0].unusable is None
    assert snapshot.providers["ollama"].pays == "none"


def test_models_that_only_the_local_server_names_are_discovered(tmp_path: Path) -> None:
    directory = catalog(tmp_path, HEAD + LOCAL_OFFER, providers__ollama=OLLAMA)
    server = LocalServer({"gpt-oss:20b": None, "Qwen 3:8B": None, "phi": 32_768, "nomic-embed-text": None})
    snapshot = load(directory, ollama=server)
    assert sorted(snapshot.models) == ["moonshotai/kimi", "ollama/phi", "ollama/qwen-3:8b"]
    found = snapshot.models["ollama/qwen-3:8b"]
    assert (found.discovered, found.quality, found.context) == (True, {}, 8_192)
    assert (found.input, found.features) == (
        frozenset({"text"}),
        frozenset({"tools", "json_mode"}),
    )
    (offer,) = found.offers
    assert (offer.upstream_model, offer.free, offer.unusable) == ("Qwen 3:8B", True, None)
    assert offer.price == Price(0, 0, 0, 0)
    assert snapshot.models["ollama/phi"].context == 32_768
    assert snapshot.revision == load(directory).revision


def test_providers_can_be_read_from_a_catalog_with_faults(tmp_path: Path) -> None:
    directory = catalog(tmp_path, "broken =", providers__ollama=OLLAMA, providers__bad="name = 3\n")
    assert sorted(read_providers(directory)) == ["novita", "ollama"]


def test_the_catalog_here_comes_first(tmp_path: Path) -> None:
    (tmp_path / "models_catalog").mkdir()
    assert default_directory(tmp_path) == tmp_path / "models_catalog"
    assert (default_directory(tmp_path / "elsewhere") / "policy.toml").is_file()


def test_the_scanner_finds_every_field() -> None:
    text = (
        "# [no.table]\n"
        'a."b c".d = """x\n[[offers]]\n\\""" y = 1 """\n'
        "[q]\nz = [ [1], # ] comment\n  { k = 'a}b', 'l' = 2 } ]\n"
        "[[o]]\nm = '''\n'''\n[o.n]\np = 1979-05-27T07:32:00Z\n[[o]]\n[[o.r]]\ns = \"]\"\n"
    )
    assert scan(text) == {
        ("a",): 2,
        ("a", "b c"): 2,
        ("a", "b c", "d"): 2,
        ("q",): 5,
        ("q", "z"): 6,
        ("q", "z", 0): 6,
        ("q", "z", 0, 0): 6,
        ("q", "z", 1): 7,
        ("q", "z", 1, "k"): 7,
        ("q", "z", 1, "l"): 7,
        ("o",): 8,
        ("o", 0): 8,
        ("o", 0, "m"): 9,
        ("o", 0, "n"): 11,
        ("o", 0, "n", "p"): 12,
        ("o", 1): 13,
        ("o", 1, "r"): 14,
        ("o", 1, "r", 0): 14,
        ("o", 1, "r", 0, "s"): 15,
    }


def test_a_fault_renders_for_terminals() -> None:
    assert str(Fault("policy.toml", 3, "mode", "no")) == "policy.toml:3: mode: no"
    assert str(Fault("policy.toml", 3, "", "no")) == "policy.toml:3: no"
