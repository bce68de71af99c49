"""The GPUs of a machine, as ``torch.cuda`` shows them."""

from __future__ import annotations

import warnings

import pytest
import torch

from hatvid.engine import devices

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: http://www.nvidia.com/"
)
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


class Machine:
    """A machine's GPUs, as ``torch.cuda`` shows them, with the warnings that it gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        devices._warn_once.cache_clear()
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def without(self, reason: BaseException) -> None:
        """No GPU that PyTorch finds; ``torch.cuda.init`` says why."""

        def available() -> bool:
            warnings.warn(f"CUDA initialization: {reason}", stacklevel=2)
            return False

        def init() -> None:
            raise reason

        self.patch.setattr(torch.cuda, "is_available", available)
        self.patch.setattr(torch.cuda, "init", init)

    def having(self, *capabilities: tuple[int, int], built: list[str] = CU130) -> None:
        def capability(device: torch.device) -> tuple[int, int]:
            warnings.warn(f"Found GPU{device.index} which is of compute capability", stacklevel=2)
            return capabilities[device.index]

        self.patch.setattr(torch.cuda, "is_available", lambda: True)
        self.patch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        self.patch.setattr(torch.cuda, "get_device_capability", capability)
        self.patch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
        self.patch.setattr(torch.cuda, "get_arch_list", lambda: built)
