"""The Kubernetes manifests: valid, and as closed as they claim to be."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from coremesh.settings import ALL_SECTIONS, load

K8S = Path(__file__).parents[3] / "deploy/k8s"
TARGETS = ("base", "overlays/gpu", "overlays/dev")
KUBERNETES = "1.31"
SERVICES = ("querier", "trainer", "gating", "reward", "weights")

ALIVE = {"httpGet": {"path": "/healthz", "port": "http"}}
READY = {"httpGet": {"path": "/readyz", "port": "http"}}
TIMES = {"periodSeconds", "timeoutSeconds", "failureThreshold"}

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="needs kubectl, whose kustomize renders the manifests"
)


def rendered(target: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(K8S / target)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def named(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    workloads = {**named(objects, "Deployment"), **named(objects, "StatefulSet")}
    return {name: one["spec"]["template"]["spec"] for name, one in workloads.items()}


@needs_kubectl
@pytest.mark.parametrize("target", TARGETS)
def test_every_object_fits_its_schema(target: str) -> None:
    for one in rendered(target):
        if one["apiVersion"] != "keda.sh/v1alpha1":
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


@needs_kubectl
@pytest.mark.parametrize("target", TARGETS)
def test_pods_are_confined_and_probed(target: str) -> None:
    objects = rendered(target)
    assert set(SERVICES) <= set(pods(objects))
    for name, pod in pods(objects).items():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert {"requests", "limits"} <= set(container["resources"])
        assert "startupProbe" in container
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod.get("volumes", ())} | (mounted & {"data"})


@needs_kubectl
@pytest.mark.parametrize("target", TARGETS)
def test_services_drain_before_they_are_killed(target: str) -> None:
    objects = rendered(target)
    (settings,) = [one["data"] for one in objects if one["kind"] == "ConfigMap"]
    for name in SERVICES:
        pod = pods(objects)[name]
        pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
        assert pause + float(settings["COREMESH_HTTP_DRAIN_S"]) < pod["terminationGracePeriodSeconds"]
        assert name in named(objects, "PodDisruptionBudget")


def allowed(objects: list[dict[str, Any]], name: str, direction: str) -> list[dict[str, Any]]:
    """The rules that hold for the pods called ``name``."""
    found: list[dict[str, Any]] = []
    for policy in named(objects, "NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]
        wanted = selector.get("matchLabels", {}).get("app.kubernetes.io/name", name)
        names = [n for e in selector.get("matchExpressions", ()) for n in e["values"]] or [name]
        if wanted == name and name in names:
            found += policy["spec"].get(direction, ())
    return found


@needs_kubectl
def test_only_those_who_must_reach_the_internet_do() -> None:
    objects = rendered("base")
    closed = named(objects, "NetworkPolicy")["nothing"]["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    reach = {
        name: [
            rule.get("ports")
            for rule in allowed(objects, name, "egress")
            for peer in rule["to"]
            if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
        ]
        for name in SERVICES
    }
    chain = [{"port": 443, "protocol": "TCP"}, {"port": 9944, "protocol": "TCP"}]
    assert reach == {"querier": [None], "trainer": [None], "gating": [], "reward": [], "weights": [chain]}
    open_to_all = {
        name: any("from" not in rule for rule in allowed(objects, name, "ingress")) for name in SERVICES
    }
    assert open_to_all == {name: name == "querier" for name in SERVICES}


@needs_kubectl
def test_the_wallet_is_one_hotkey_for_those_who_sign() -> None:
    found = pods(rendered("base"))
    secrets = {
        name: [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        for name, pod in found.items()
    }
    hotkey = {
        "secretName": "coremesh-hotkey",
        "defaultMode": 0o440,
        "items": [{"key": "hotkey", "path": "default"}],
    }
    signing = {"querier", "trainer", "weights"}
    assert secrets == {name: [hotkey] if name in signing else [] for name in SERVICES}


@needs_kubectl
def test_gpus_are_reserved_and_scaled_by_what_callers_wait_for() -> None:
    objects = rendered("overlays/gpu")
    gpus = {
        name: pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for name, pod in pods(objects).items()
    }
    assert gpus == {"gating": "1", "reward": "1", "querier": None, "trainer": None, "weights": None}
    assert named(objects, "HorizontalPodAutoscaler") == {}
    assert set(named(objects, "ScaledObject")) == {"querier", "gating", "reward"}


@needs_kubectl
def test_the_dev_overlay_brings_all_that_pods_refer_to() -> None:
    objects = rendered("overlays/dev")
    kinds = {"configMapRef": "ConfigMap", "secretRef": "Secret"}
    for pod in pods(objects).values():
        for volume in pod.get("volumes", ()):
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in named(objects, "PersistentVolumeClaim")
            assert "secret" not in volume
        for source in pod["containers"][0].get("envFrom", ()):
            ((kind, reference),) = source.items()
            assert reference["name"] in named(objects, kinds[kind])


@needs_kubectl
@pytest.mark.parametrize("target", TARGETS)
def test_probes_tell_starting_from_serving_from_dead(target: str) -> None:
    found = {
        name: [
            {what: one for what, one in pod["containers"][0][f"{kind}Probe"].items() if what not in TIMES}
            for kind in ("startup", "readiness", "liveness")
        ]
        for name, pod in pods(rendered(target)).items()
        if name in SERVICES
    }
    # Queriers begin when all is there, and go on with less; what is not ready in reward is the models.
    assert found == {
        "querier": [READY, ALIVE, ALIVE],
        "trainer": [ALIVE, ALIVE, ALIVE],
        "gating": [ALIVE, ALIVE, ALIVE],
        "reward": [ALIVE, READY, ALIVE],
        "weights": [ALIVE, ALIVE, ALIVE],
    }


@needs_kubectl
@pytest.mark.parametrize("target", TARGETS)
def test_resources_are_asked_for_within_their_limits(target: str) -> None:
    for name, pod in pods(rendered(target)).items():
        resources = pod["containers"][0]["resources"]
        assert set(resources["requests"]) >= {"cpu", "memory"}, name
        assert _bytes(resources["requests"]["memory"]) <= _bytes(resources["limits"]["memory"]), name
        assert "cpu" not in resources["limits"], name


@needs_kubectl
@pytest.mark.parametrize("target", TARGETS)
def test_a_drain_takes_one_pod_of_a_service_at_a_time(target: str) -> None:
    objects = rendered(target)
    budgets = named(objects, "PodDisruptionBudget")
    assert set(SERVICES) <= set(budgets)
    for name in SERVICES:
        assert budgets[name]["spec"] == {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
        }
        template = named(objects, "Deployment")[name]["spec"]["template"]
        assert template["metadata"]["labels"]["app.kubernetes.io/name"] == name


@needs_kubectl
@pytest.mark.parametrize("target", ["base", "overlays/dev"])
def test_without_keda_what_works_for_callers_scales_by_cpu(target: str) -> None:
    scalers = named(rendered(target), "HorizontalPodAutoscaler")
    assert {name: one["spec"]["scaleTargetRef"]["name"] for name, one in scalers.items()} == {
        name: name for name in ("querier", "gating", "reward")
    }
    for one in scalers.values():
        assert 1 <= one["spec"]["minReplicas"] < one["spec"]["maxReplicas"]
        (metric,) = one["spec"]["metrics"]
        assert metric["resource"]["name"] == "cpu"


@needs_kubectl
def test_with_keda_models_scale_by_queue_and_p95_wait_and_queriers_by_concurrency() -> None:
    objects = rendered("overlays/gpu")
    asked: dict[str, list[tuple[str, ...]]] = {}
    for name, one in named(objects, "ScaledObject").items():
        spec = one["spec"]
        assert one["apiVersion"] == "keda.sh/v1alpha1"
        assert spec["scaleTargetRef"] == {"name": name}
        assert name in named(objects, "Deployment")
        assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
        for trigger in spec["triggers"]:
            assert trigger["type"] == "prometheus"
            assert set(trigger["metadata"]) - {"ignoreNullValues"} == {"serverAddress", "query", "threshold"}
            assert float(trigger["metadata"]["threshold"]) > 0
            query = trigger["metadata"]["query"]
            quantile = re.findall(r"histogram_quantile\(([\d.]+)", query)
            asked.setdefault(name, []).append((*re.findall(r"coremesh_\w+", query), *quantile))
    # Their existence is tested with those of dashboards and alerts.
    assert asked == {
        "querier": [("coremesh_querier_callers",)],
        "gating": [("coremesh_gating_queue_depth",), ("coremesh_gating_wait_seconds_bucket", "0.95")],
        "reward": [("coremesh_reward_queue_requests",), ("coremesh_reward_wait_seconds_bucket", "0.95")],
    }


@needs_kubectl
def test_a_pod_with_a_gpu_gives_it_up_before_the_next_one_starts() -> None:
    objects = rendered("overlays/gpu")
    devices = {"gating": "COREMESH_GATING_DEVICE", "reward": "COREMESH_REWARD_DEVICE"}
    for name, variable in devices.items():
        spec = named(objects, "Deployment")[name]["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
        pod = spec["template"]["spec"]
        given = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
        assert given[variable] == "cuda"
        assert pod["containers"][0]["image"] == f"coremesh/{name}:0.1.0-cuda"
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


@needs_kubectl
@pytest.mark.parametrize("target", TARGETS)
def test_the_settings_of_every_pod_are_settings(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered(target)
    sources = {**named(objects, "ConfigMap"), **named(objects, "Secret")}
    for name in SERVICES:
        container = pods(objects)[name]["containers"][0]
        given = {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}
        for one in container["envFrom"]:
            ((_, reference),) = one.items()
            given |= sources.get(reference["name"], {}).get("data") or {}
        known = {
            f"COREMESH_{section.section.upper()}_{field.upper()}"
            for section in ALL_SECTIONS
            for field in section.model_fields
        }
        ours = {variable: value for variable, value in given.items() if variable.startswith("COREMESH_")}
        assert set(ours) <= known
        if target != "overlays/dev":  # whose secrets are encoded
            for variable, value in ours.items():
                monkeypatch.setenv(variable, value)
            load(ALL_SECTIONS)


@needs_kubectl
def test_redis_is_outside_unless_the_component_brings_one() -> None:
    assert "StatefulSet" not in {one["kind"] for one in rendered("base")}
    (redis,) = named(rendered("overlays/dev"), "StatefulSet").values()
    assert redis["metadata"]["name"] == "redis"
    ports = {
        port["port"]
        for rule in allowed(rendered("base"), "querier", "egress")
        for port in rule.get("ports") or ()
        for peer in rule["to"]
        if peer.get("podSelector", {}).get("matchLabels") == {"app.kubernetes.io/name": "redis"}
    }
    # With TLS, and Sentinels, too.
    assert ports == {6379, 6380, 26379}


@needs_kubectl
def test_traces_go_to_a_collector_and_nowhere_else(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: coremesh\n"
        "resources: [../k8s/base]\ncomponents: [../k8s/components/traces]\n"
    )
    objects = rendered(str(overlay))
    for one in objects:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    (config,) = named(objects, "ConfigMap").values()
    assert config["data"]["COREMESH_TRACES_ENDPOINT"] == "http://otel-collector.monitoring.svc:4318"
    plain = rendered("base")
    for name in SERVICES:
        more = [
            rule for rule in allowed(objects, name, "egress") if rule not in allowed(plain, name, "egress")
        ]
        monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
        assert more == [
            {"to": [{"namespaceSelector": monitoring}], "ports": [{"port": 4318, "protocol": "TCP"}]}
        ]


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]
