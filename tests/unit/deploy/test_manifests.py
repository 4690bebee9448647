"""The Kubernetes manifests: valid, and as closed as they claim to be."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[3] / "deploy/k8s"
TARGETS = ("base", "overlays/gpu", "overlays/dev")
KUBERNETES = "1.31"
SERVICES = ("querier", "trainer", "gating", "reward", "weights")

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
needs_schemas = pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None, reason="needs the package kubernetes-validate"
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
@needs_schemas
@pytest.mark.parametrize("target", TARGETS)
def test_every_object_fits_its_schema(target: str) -> None:
    import kubernetes_validate  # pyright: ignore[reportMissingImports]

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
