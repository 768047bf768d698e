"""The systemd unit and the Kubernetes manifests: valid, without rights, patient when they stop."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "systemd" / "llm-router.service"
MANIFESTS: list[dict[str, Any]] = list(
    yaml.safe_load_all((DEPLOY / "kubernetes" / "router.yaml").read_text())
)
KUBERNETES = ("1.29", "1.33", "1.37")
# systemd-analyze's own scale: 0 is locked up, 10 has no limits; below 2 it calls OK.
EXPOSURE = 2.0


def needs_systemd() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        assert "CI" not in os.environ, "CI must have systemd-analyze (Debian: apt-get install systemd)"
        pytest.skip("no systemd-analyze here (Debian: apt-get install systemd)")
    return found


def unit_with(program: str, folder: Path) -> Path:
    """Return the unit with a program that is here in place of the one that is to be installed."""
    text, named = re.subn(r"^ExecStart=\S+", f"ExecStart={program}", UNIT.read_text(), flags=re.MULTILINE)
    assert named == 1
    copy = folder / UNIT.name
    copy.write_text(text)
    return copy


def test_systemd_takes_the_unit_without_a_word(tmp_path: Path) -> None:
    command = [needs_systemd(), "verify", str(unit_with(sys.executable, tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, said) == (0, [])


def test_systemd_finds_the_unit_hardened(tmp_path: Path) -> None:
    command = [
        needs_systemd(),
        "security",
        "--offline=true",
        "--no-pager",
        str(unit_with(sys.executable, tmp_path)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (level,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert float(level) < EXPOSURE


def test_the_unit_waits_longer_than_the_router_and_its_settings_are_settings() -> None:
    text = UNIT.read_text()
    (environment,) = re.findall(r"^Environment=(.+)$", text, re.MULTILINE)
    given = dict(pair.split("=", 1) for pair in environment.split() if pair.startswith("ROUTER_"))
    settings = Settings(**{name.removeprefix("ROUTER_").lower(): value for name, value in given.items()})
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(stop_s) > settings.grace_s
    example = (DEPLOY / "systemd" / "llm-router.env").read_text()
    for name in re.findall(r"^#?ROUTER_(\w+)=", example, re.MULTILINE):
        assert name.lower() in Settings.model_fields


def one(kind: str, name: str = "llm-router") -> dict[str, Any]:
    (found,) = [each for each in MANIFESTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_a_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    from kubernetes_validate import validate  # two seconds, which only this test should cost

    validate(manifest, version, strict=True)


def pod() -> dict[str, Any]:
    found: dict[str, Any] = one("StatefulSet")["spec"]["template"]["spec"]
    return found


def test_everything_selects_the_routers_pods() -> None:
    labels = one("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        one("StatefulSet")["spec"]["selector"]["matchLabels"],
        one("Service")["spec"]["selector"],
        one("Service", "llm-router-replicas")["spec"]["selector"],
        one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert one("StatefulSet")["spec"]["serviceName"] == "llm-router-replicas"
    assert one("PodDisruptionBudget")["spec"]["minAvailable"] < one("StatefulSet")["spec"]["replicas"]


def test_the_pod_runs_without_rights_as_the_images_user() -> None:
    spec = pod()
    (user,) = re.findall(r"^USER (\d+):\d+$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    assert spec["securityContext"]["runAsUser"] == int(user)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec["containers"], *spec["initContainers"]):
        locked = container["securityContext"]
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_the_pods_settings_are_settings_and_it_has_time_to_end() -> None:
    (router,) = pod()["containers"]
    given = {e["name"].removeprefix("ROUTER_").lower(): e["value"] for e in router["env"]}
    settings = Settings(**given)
    assert settings.asks_for_key
    (slept_s,) = re.findall(r"sleep\((\d+)\)", " ".join(router["lifecycle"]["preStop"]["exec"]["command"]))
    assert pod()["terminationGracePeriodSeconds"] > int(slept_s) + settings.grace_s
    assert {mount["mountPath"] for mount in router["volumeMounts"]} >= {
        str(settings.data),
        str(settings.catalog),
    }
    (port,) = [p["containerPort"] for p in router["ports"]]
    assert port == settings.port
    assert one("NetworkPolicy")["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port}]


def test_only_what_stands_in_labelled_namespaces_reaches_the_router() -> None:
    (rule,) = one("NetworkPolicy")["spec"]["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"llm-router-client": "true"}}}]
    text = (DEPLOY / "kubernetes" / "router.yaml").read_text()
    assert re.search(r"^#   kubectl label namespace .* llm-router-client=true$", text, re.MULTILINE)


def test_a_pod_that_cannot_reach_storage_gets_no_requests_and_is_not_killed() -> None:
    (router,) = pod()["containers"]
    assert router["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert router["startupProbe"]["httpGet"]["path"] == "/health/ready"
    assert router["livenessProbe"]["httpGet"]["path"] == "/health/live"
