"""The checkpoints that hatvid knows by name: what they are, and by what they are known.

Needs neither torch nor the files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["EMBEDDED", "KNOWN", "KnownModel", "PUBLISHED", "file_sha256"]

_APACHE = "Apache-2.0 (of the repository; the weights have no licence of their own)"
_HUB = "https://github.com/OpenModelDB/model-hub/releases/download/hat/"
_ACLY = "https://huggingface.co/Acly/hat/resolve/main/"
_PHHOFM = "https://github.com/Phhofm/models/releases/download/"


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """One checkpoint."""

    name: str
    scale: int

    filename: str
    """Of the checkpoint as published."""

    sha256: str
    """Of the file, in hexadecimal; checked each time it is loaded."""

    size: int | None = None
    """Bytes of the file; None where it is not known."""

    network: str
    """Its name in the paper."""

    about: str
    """What it was trained for, in a line."""

    licence: str

    mirrors: tuple[str, ...] = ()
    """Addresses of the file. None of them was tried when this list was made; whatever
    comes from them counts only with the right SHA-256."""

    @property
    def embedded(self) -> bool:
        """Whether it comes with hatvid."""
        return not self.mirrors


EMBEDDED = (
    KnownModel(
        name="hat-nano-x2",
        scale=2,
        filename="hat-nano-x2.safetensors",
        size=3_536_836,
        sha256="169ec591083ec6abe8c0fb8238bf79281b73debcafc70516641599d971d08200",
        network="hat-nano",
        about="small network of this project, for clean and for compressed video",
        licence="Apache-2.0",
    ),
    KnownModel(
        name="hat-nano-x3",
        scale=3,
        filename="hat-nano-x3.safetensors",
        size=3_721_796,
        sha256="a0c5ae90d370ca0c03f8b1a1d6f6f8889fe51f8e741eb139e884e97e9ec6ab79",
        network="hat-nano",
        about="small network of this project, for clean and for compressed video",
        licence="Apache-2.0",
    ),
    KnownModel(
        name="hat-nano-x4",
        scale=4,
        filename="hat-nano-x4.safetensors",
        size=3_684_972,
        sha256="849efa5f0a2f79804c004577871df53af5161cfd4ce9f4209a16d5e3a317a486",
        network="hat-nano",
        about="small network of this project, for clean and for compressed video",
        licence="Apache-2.0",
    ),
)

PUBLISHED = (
    KnownModel(
        name="hat-s-x2",
        scale=2,
        filename="HAT-S_SRx2.pth",
        size=79_906_461,
        sha256="3e249a901c2aed6b82548875e21847ef6c015a40c814237a7a0abb10c69d5ddf",
        network="HAT-S",
        about="of the paper: bicubic reduction, DF2K",
        licence=_APACHE,
        mirrors=(f"{_HUB}HAT-S_SRx2.pth",),
    ),
    KnownModel(
        name="hat-s-x4",
        scale=4,
        filename="HAT-S_SRx4.pth",
        size=81_089_561,
        sha256="a92f81bd2c0c1aaa371a6e4d6cac69e749fde2e36196885ee47a4a3667542c9a",
        network="HAT-S",
        about="of the paper: bicubic reduction, DF2K; Urban100 27.87 dB",
        licence=_APACHE,
        mirrors=(f"{_HUB}HAT-S_SRx4.pth",),
    ),
    KnownModel(
        name="hat-x4",
        scale=4,
        filename="HAT_SRx4_ImageNet-pretrain.pth",
        size=85_137_601,
        sha256="4ee053c42461187846dc0e93aa5abd34591c0725a8e044a59000e92ee215e833",
        network="HAT",
        about="of the paper: bicubic reduction, pre-trained on ImageNet, DF2K",
        licence=_APACHE,
        mirrors=(
            f"{_HUB}HAT_SRx4_ImageNet-pretrain.pth",
            f"{_ACLY}HAT_SRx4_ImageNet-pretrain.pth",
        ),
    ),
    KnownModel(
        name="hat-l-x4",
        scale=4,
        filename="HAT-L_SRx4_ImageNet-pretrain.pth",
        size=165_774_123,
        sha256="5992bd38522f2b8faf11ea4bd8ee08de92465bb66892166576999afc36d60043",
        network="HAT-L",
        about="of the paper: bicubic reduction, pre-trained on ImageNet, DF2K; Urban100 28.60 dB",
        licence=_APACHE,
        mirrors=(f"{_HUB}HAT-L_SRx4_ImageNet-pretrain.pth",),
    ),
    KnownModel(
        name="real-hat-gan-x4",
        scale=4,
        filename="Real_HAT_GAN_SRx4.pth",
        sha256="f5b1e3bbbb05147ca2beefcc715279cb647d7976cbda67d62ea7e6e20d5ffcc7",
        network="HAT",
        about="of the authors: pictures as cameras and the web leave them; nearer to the input",
        licence=_APACHE,
        mirrors=(f"{_HUB}Real_HAT_GAN_SRx4.pth",),
    ),
    KnownModel(
        name="real-hat-gan-sharper-x4",
        scale=4,
        filename="Real_HAT_GAN_SRx4_sharper.pth",
        sha256="5800b67136006eb8cab3b4ed7c8d73b6a195bb18e6cc709b674f9aa069c00271",
        network="HAT",
        about="of the authors: pictures as cameras and the web leave them; sharper",
        licence=_APACHE,
        mirrors=(
            f"{_HUB}Real_HAT_GAN_SRx4_sharper.pth",
            f"{_ACLY}Real_HAT_GAN_sharper.pth",
        ),
    ),
    KnownModel(
        name="nomos8k-hat-l-x4",
        scale=4,
        filename="4xNomos8kSCHAT-L.pth",
        size=331_564_661,
        sha256="9e7726ba191fdf05b87ea8585d78164b6e96e2ee04fdbb3285c3efa37db4b5b0",
        network="HAT-L",
        about="of Philip Hofmann: photographs, with JPEG artefacts",
        licence="CC-BY-4.0",
        mirrors=(
            f"{_PHHOFM}4xNomos8kSCHAT/4xNomos8kSCHAT-L.pth",
            f"{_HUB}4xNomos8kSCHAT-L.pth",
        ),
    ),
    KnownModel(
        name="nomos8k-hat-s-x4",
        scale=4,
        filename="4xNomos8kSCHAT-S.pth",
        size=81_096_929,
        sha256="e1400e16a10bf4dbbe003651bf76f9f9c4e083f0e5c93e1c3effe2fa91b41168",
        network="HAT-S",
        about="of Philip Hofmann: photographs, with JPEG artefacts",
        licence="CC-BY-4.0",
        mirrors=(
            f"{_PHHOFM}4xNomos8kSCHAT/4xNomos8kSCHAT-S.pth",
            f"{_HUB}4xNomos8kSCHAT-S.pth",
        ),
    ),
    KnownModel(
        name="lexica-hat-x4",
        scale=4,
        filename="4xLexicaHAT.pth",
        size=85_149_569,
        sha256="f3441f602f221ae111253b72ccb561e9f7a1a3dc84ab27923edea0a9581ea1dd",
        network="HAT",
        about="of Philip Hofmann: generated pictures",
        licence="CC-BY-4.0",
        mirrors=(f"{_PHHOFM}4xLexicaHAT/4xLexicaHAT.pth", f"{_HUB}4xLexicaHAT.pth"),
    ),
)

KNOWN = {model.name: model for model in (*EMBEDDED, *PUBLISHED)}
"""By name."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
