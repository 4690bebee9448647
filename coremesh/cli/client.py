"""Asking a running mesh."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, cast

import httpx

from coremesh.errors import CoremeshError, ServiceUnavailable
from coremesh.mesh import why_silent
from coremesh.settings import ALL_SECTIONS, MeshSettings, QuerierSettings, load


class Refused(CoremeshError):
    """A service answered with an error of its own, whose code it keeps."""

    code = "refused"


def refused(content: object, status: int) -> Refused:
    """What a service said, with the code, the sentence and the remedy that it gave."""
    said = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    kind = type("Refused", (Refused,), {"code": str(said.get("code") or Refused.code), "status": status})
    return kind(str(said.get("message") or f"the answer was {status}"), remedy=said.get("remedy") or None)


class Client:
    """A blocking client of the services that the settings name. A context manager."""

    def __init__(self, config: Path | None) -> None:
        settings = load(
            [MeshSettings, QuerierSettings], ["--config", str(config)] if config else [], known=ALL_SECTIONS
        )
        mesh = settings[MeshSettings]
        urls = {
            "querier": mesh.querier_url,
            "gating": mesh.gating_url,
            "reward": mesh.reward_url,
            "weights": mesh.weights_url,
            "trainer": mesh.trainer_url,
        }
        # As the services take them: with a slash at the end, or without.
        self.urls = {name: url.rstrip("/") for name, url in urls.items()}
        self._mesh_token = mesh.token.get_secret_value()
        keys = settings[QuerierSettings].api_keys
        self._api_key = keys[0].get_secret_value() if keys else ""
        self._http = httpx.Client(trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, service: str, path: str, timeout_s: float = 10.0) -> Any:
        """GET JSON. Raises ServiceUnavailable or Refused."""
        return self._request("GET", service, path, None, timeout_s)

    def post(self, service: str, path: str, body: dict[str, Any], timeout_s: float) -> Any:
        """POST JSON. Raises ServiceUnavailable or Refused."""
        return self._request("POST", service, path, body, timeout_s)

    def status(self) -> dict[str, Any]:
        """Every service with its health, and the newest submission."""
        services: list[dict[str, Any]] = []
        for name, url in self.urls.items():
            try:
                answer = self._http.get(f"{url}/readyz", timeout=5.0).json()
                found = {"ready": answer["ready"], "checks": answer["checks"]}
                services.append({"name": name, "url": url, "answers": True, **found})
            except httpx.HTTPError as error:
                services.append(_silent(name, url, f"does not answer: {why_silent(error)}"))
            except (ValueError, KeyError, TypeError):
                services.append(_silent(name, url, "is not what answers there"))
        for service, path in (("gating", "/head"), ("trainer", "/training")):
            for row in services:
                if row["name"] == service and row["ready"]:
                    row["leader"] = self._leader(service, path)
        mesh: dict[str, Any] = {"services": services, "scores": None, "submission": None}
        try:
            scores = self.get("weights", "/scores")
            mesh["scores"] = {key: scores[key] for key in ("rule", "events", "last_id", "version")}
            submissions = self.get("weights", "/submissions?count=1")["submissions"]
            mesh["submission"] = submissions[0] if submissions else None
        except CoremeshError:
            pass  # said already by the service's own row
        return mesh

    def _leader(self, service: str, path: str) -> str | None:
        try:
            return self.get(service, path)["leader"]
        except (CoremeshError, KeyError):
            return None

    def _request(
        self, method: str, service: str, path: str, body: dict[str, Any] | None, timeout_s: float
    ) -> Any:
        token = self._api_key if service == "querier" else self._mesh_token
        headers = {"authorization": f"Bearer {token}"} if token else {}
        url = self.urls[service] + path
        try:
            answer = self._http.request(method, url, json=body, headers=headers, timeout=timeout_s)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(
                f"the {service} service does not answer at {self.urls[service]}: {why_silent(error)}",
                remedy="Is the mesh up? `make up` starts it on this machine.",
            ) from None
        try:
            content = answer.json()
        except ValueError:
            raise ServiceUnavailable(f"the {service} service gave no JSON") from None
        if answer.status_code >= 400:
            raise refused(content, answer.status_code)
        return content


def _silent(name: str, url: str, why: str) -> dict[str, Any]:
    return {"name": name, "url": url, "answers": False, "ready": False, "checks": {name: f"{name} {why}"}}
