"""Which proxy a url goes through: the variables and their meaning are curl's."""

import httpx2 as httpx
import pytest

from router.upstream.proxies import proxy_for

HTTP, HTTPS, ALL = "http://proxy:1", "http://proxy:2", "http://proxy:3"
URL = "http://api.example.com/v1"


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, URL, None),
        ({"HTTP_PROXY": HTTP}, URL, HTTP),
        ({"http_proxy": HTTP}, URL, HTTP),
        ({"http_proxy": HTTP, "HTTP_PROXY": ALL}, URL, HTTP),
        ({"HTTP_PROXY": f" {HTTP} "}, URL, HTTP),
        ({"HTTP_PROXY": ""}, URL, None),
        ({"HTTP_PROXY": HTTP}, "https://api.example.com/v1", None),
        ({"HTTP_PROXY": HTTP, "HTTPS_PROXY": HTTPS}, "https://api.example.com/v1", HTTPS),
        ({"ALL_PROXY": ALL}, URL, ALL),
        ({"ALL_PROXY": ALL}, "https://api.example.com/v1", ALL),
        ({"ALL_PROXY": ALL, "HTTP_PROXY": HTTP}, URL, HTTP),
        ({"OTHER_PROXY": HTTP}, URL, None),
    ],
)
def test_the_variable_of_the_scheme_comes_first(environ: dict[str, str], url: str, proxy: str | None) -> None:
    assert proxy_for(httpx.URL(url), environ) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "url", "exempt"),
    [
        ("*", URL, True),
        ("api.example.com", URL, True),
        ("API.Example.COM", URL, True),
        ("example.com", URL, True),
        (".example.com", URL, True),
        (".example.com", "http://example.com/", True),
        ("ample.com", URL, False),
        ("api.example.com.evil", URL, False),
        ("other.example.com", URL, False),
        ("one, api.example.com ,two", URL, True),
        ("one api.example.com", URL, True),
        ("", URL, False),
        (",,", URL, False),
        ("api.example.com:80", URL, True),
        ("api.example.com:81", URL, False),
        ("api.example.com:81", "http://api.example.com:81/", True),
        ("api.example.com:443", "https://api.example.com/", True),
        ("*:443", "https://api.example.com/", True),
        ("*:443", URL, False),
        ("127.0.0.1", "http://127.0.0.1:8000/", True),
        ("10.0.0.0/8", "http://10.200.3.4/", True),
        ("10.0.0.0/8", "http://11.0.0.1/", False),
        ("10.0.0.1/8", "http://10.9.9.9/", True),
        ("10.0.0.0/8", URL, False),
        ("10.0.0.0/99", "http://10.0.0.1/", False),
        ("fd00::/8", "http://[fd00::1]:8000/", True),
        ("fd00::1", "http://[fd00::1]:8000/", True),
        ("[fd00::1]", "http://[fd00::1]:8000/", True),
        ("[fd00::1]:8000", "http://[fd00::1]:8000/", True),
        ("[fd00::1]:8001", "http://[fd00::1]:8000/", False),
        ("fd00::2", "http://[fd00::1]:8000/", False),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_exempts_hosts_ports_and_networks(name: str, no_proxy: str, url: str, exempt: bool) -> None:
    environ = {"ALL_PROXY": ALL, name: no_proxy}

    assert proxy_for(httpx.URL(url), environ) == (None if exempt else ALL)
