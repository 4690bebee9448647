"""Small arrays on their way to a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def put(values: Any, device: torch.device, dtype: type[np.integer[Any]] = np.int64) -> torch.Tensor:
    """Integers as a tensor on `device`, without waiting for it.

    A copy from ordinary memory waits until a GPU has done all that is queued; from pinned memory it takes its
    place in the queue, so that the next call is planned while this one is computed.
    """
    here = torch.from_numpy(np.ascontiguousarray(values, dtype=dtype))
    return here if device.type == "cpu" else here.pin_memory().to(device, non_blocking=True)
