"""What GPUs say, mapped to gauges: the library and the driver are where there is a GPU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from prometheus_client import REGISTRY

from coremesh.service.gpu import DriverNvml, Nvml, Reading, visible, watch_gpus
from tests.wait import wait_until

GIB = 2**30


@dataclass
class FakeNvml:
    readings: dict[str, Reading]
    away: bool = False
    read_: list[int] = field(default_factory=list)

    def uuids(self) -> list[str]:
        return list(self.readings)

    def read(self, index: int) -> Reading:
        if self.away:
            raise OSError("GPU is lost")
        self.read_.append(index)
        return list(self.readings.values())[index]


def shown() -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in REGISTRY.collect()
        if family.name.startswith("coremesh_gpu_")
        for sample in family.samples
    }


@asynccontextmanager
async def watching(nvml: Nvml | None) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(watch_gpus(nvml, every_s=0.01))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    from coremesh.service.gpu import MEMORY, UTILISATION

    yield
    MEMORY.clear()
    UTILISATION.clear()


async def test_each_gpu_shows_its_memory_and_how_busy_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml({"GPU-a": Reading(3 * GIB, 80 * GIB, 0.25), "GPU-b": Reading(GIB, 80 * GIB, None)})
    async with watching(nvml):
        await wait_until(lambda: len(nvml.read_) >= 4)
        assert shown() == {
            ("coremesh_gpu_memory_bytes", "0", "used"): 3 * GIB,
            ("coremesh_gpu_memory_bytes", "0", "total"): 80 * GIB,
            ("coremesh_gpu_memory_bytes", "1", "used"): GIB,
            ("coremesh_gpu_memory_bytes", "1", "total"): 80 * GIB,
            ("coremesh_gpu_utilisation_ratio", "0"): 0.25,
        }


async def test_only_what_the_process_may_use_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    nvml = FakeNvml({"GPU-a": Reading(1, 2, 0.5), "GPU-b": Reading(3, 4, 1.0)})
    async with watching(nvml):
        await wait_until(lambda: nvml.read_)
    assert {labels[1] for labels in shown()} == {"1"}


async def test_a_gpu_that_is_lost_is_shown_no_more_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml({"GPU-a": Reading(1, 2, 0.5)})
    async with watching(nvml) as task:
        await wait_until(shown)
        nvml.away = True
        await wait_until(lambda: not shown())
        assert not task.done()


async def test_a_machine_without_a_driver_shows_nothing() -> None:
    try:
        DriverNvml()
    except OSError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    async with watching(None) as task:
        done, _ = await asyncio.wait({task}, timeout=0.3)
        assert not done
    assert shown() == {}


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("GPU-bb", [1]),
        ("GPU-b", []),
        ("0,7,1", [0]),
        ("-1", []),
        ("MIG-1", []),
    ],
)
def test_cudas_own_variable_is_read_as_cuda_reads_it(wanted: str | None, indices: list[int]) -> None:
    assert visible(["GPU-aa", "GPU-bb", "GPU-bc"], wanted) == indices
