"""What the GPUs of this machine do, for Prometheus. Without GPU, driver or nvidia-ml-py nothing is shown."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from prometheus_client import Gauge

log = structlog.get_logger(__name__)

MEMORY = Gauge(
    "coremesh_gpu_memory_bytes",
    "Memory of the GPUs that this process may use, by kind: used (by whomever), total",
    ["gpu", "kind"],
)
UTILISATION = Gauge(
    "coremesh_gpu_utilisation_ratio", "Share of time that a GPU was busy, over the last second or so", ["gpu"]
)
LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What one GPU says of itself. Bytes, and a share from 0 to 1; None: it does not say, as slices do not."""

    used: int
    total: int
    busy: float | None


class Nvml(Protocol):
    """The machine's GPUs in the driver's order. Blocking; every method raises OSError when the driver fails."""

    def uuids(self) -> list[str]:
        """The GPUs' own names, ``GPU-…``."""
        ...

    def read(self, index: int) -> Reading:
        """How a GPU is doing."""
        ...


class DriverNvml:
    """NVIDIA's own library. Raises OSError where there is none, or no driver."""

    def __init__(self) -> None:
        try:
            import pynvml  # pyright: ignore[reportMissingTypeStubs]
        except ImportError:
            raise OSError("nvidia-ml-py is not installed") from None
        self._nvml: Any = pynvml
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from None

    def uuids(self) -> list[str]:
        """See Nvml.uuids."""
        try:
            handles = [
                self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())
            ]
            return [_text(self._nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from None

    def read(self, index: int) -> Reading:
        """See Nvml.read."""
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from None
        busy: float | None = None
        try:
            busy = float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
        except self._nvml.NVMLError:
            busy = None
        return Reading(int(memory.used), int(memory.total), busy)


def visible(uuids: list[str], wanted: str | None) -> list[int]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves to a process: numbers or beginnings of uuids, until one is wrong.

    None, for a variable that is not set, leaves all. With numbers, as our images have it, CUDA counts as the driver
    does where all GPUs are of one kind.
    """
    if wanted is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for word in wanted.split(","):
        name = word.strip()
        if name.isdigit() and int(name) < len(uuids):
            found.append(int(name))
            continue
        named = [index for index, uuid in enumerate(uuids) if name and uuid.startswith(name)]
        if len(named) != 1:
            break
        found.append(named[0])
    return found


def show(nvml: Nvml, indices: list[int]) -> None:
    """Put one reading of each GPU into the gauges. Raises OSError."""
    for index in indices:
        reading = nvml.read(index)
        MEMORY.labels(str(index), "used").set(reading.used)
        MEMORY.labels(str(index), "total").set(reading.total)
        if reading.busy is not None:
            UTILISATION.labels(str(index)).set(reading.busy)


async def watch_gpus(nvml: Nvml | None = None, *, every_s: float = LOOK_S) -> None:
    """Show the GPUs, for ever; without any, or once the driver fails, show none."""
    try:
        driver = nvml or await asyncio.to_thread(DriverNvml)
        indices = visible(await asyncio.to_thread(driver.uuids), os.environ.get("CUDA_VISIBLE_DEVICES"))
        while indices:
            await asyncio.to_thread(show, driver, indices)
            await asyncio.sleep(every_s)
    except OSError as error:
        log.info("no GPU to watch", reason=str(error))
    MEMORY.clear()
    UTILISATION.clear()
    await asyncio.Event().wait()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
