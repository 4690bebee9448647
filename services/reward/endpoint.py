"""An OpenAI-compatible endpoint, for the judge."""

from __future__ import annotations

import json

import httpx

from coremesh.errors import DeadlineExceeded, ServiceUnavailable

MOST_BYTES = 256 * 1024
MOST_TOKENS = 8


class Endpoint:
    """``ask`` sends messages to ``POST {base_url}/chat/completions`` and gives the reply's text.

    Deterministic as far as the server allows (temperature 0). Raises ServiceUnavailable, DeadlineExceeded.
    """

    def __init__(self, base_url: str, model: str, *, key: str, timeout_s: float) -> None:
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_s,
            follow_redirects=False,
            trust_env=False,
        )

    async def ask(self, messages: list[dict[str, str]]) -> str:
        """The model's reply."""
        body = {"model": self._model, "messages": messages, "temperature": 0, "max_tokens": MOST_TOKENS}
        try:
            async with self._client.stream("POST", self._url, json=body) as response:
                received = bytearray()
                async for piece in response.aiter_bytes():
                    received += piece
                    if len(received) > MOST_BYTES:
                        raise ServiceUnavailable(f"the judge at {self._url} sends too much")
        except httpx.TimeoutException:
            raise DeadlineExceeded(f"the judge at {self._url} did not answer in time") from None
        except httpx.HTTPError as error:
            raise ServiceUnavailable(
                f"the judge at {self._url} does not answer: {type(error).__name__}"
            ) from None
        if response.status_code != 200:
            raise ServiceUnavailable(f"the judge at {self._url} answered {response.status_code}")
        try:
            content = json.loads(received)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            content = None
        if not isinstance(content, str):
            raise ServiceUnavailable(f"the judge at {self._url} gave an answer of the wrong shape")
        return content

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()
