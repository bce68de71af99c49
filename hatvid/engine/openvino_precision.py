"""What OpenVINO leaves in fp32 when it computes in bf16: sums of features, and LayerNorms.

By itself OpenVINO brings each operator to bf16. A residual stream that is rounded to eight
bits after each of a hundred sums costs deep networks some five decibels (docs/precision.md).
"""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import openvino

from hatvid.errors import EngineError

__all__ = ["keep_stream_in_fp32", "stream_operators"]


def stream_operators(model: openvino.Model) -> list[str]:
    """Names of the operators that make or read a residual stream.

    They are sums of two features, and each normalisation (``MVN``) with the affine that
    follows it. What adds a constant, as a bias, is none of them. A network without
    normalisations has none: its convolutions would have to convert what they read.
    """
    features: set[str] = set()
    normal: set[str] = set()
    gained: set[str] = set()
    found = []
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        sources = [value.get_node().get_friendly_name() for value in node.input_values()]
        varying = [source for source in sources if source in features]
        # A shape is computed from features, but varies with none.
        if (varying and kind != "ShapeOf") or kind == "Parameter":
            features.add(name)
        of = varying[0] if len(varying) == 1 else None
        gain = kind == "Multiply" and of in normal
        bias = kind == "Add" and of in normal | gained
        if kind == "MVN":
            normal.add(name)
        if gain:
            gained.add(name)
        if kind == "MVN" or gain or bias or (kind == "Add" and len(varying) == 2):
            found.append(name)
    return found if normal else []


def keep_stream_in_fp32(model: openvino.Model) -> openvino.Model:
    """The same model, whose :func:`stream_operators` are not brought to 16 bits.

    OpenVINO's Python has no call for this, but its file format has an attribute, ``precise``;
    so the model goes through a file. A version that does not know it computes as it always did.

    Raises:
        EngineError: the file cannot be written or read.
    """
    wanted = set(stream_operators(model))
    if not wanted:
        return model
    try:
        return _marked(model, wanted)
    except (OSError, ElementTree.ParseError) as error:
        raise EngineError(
            f"bf16 in openvino needs a temporary file ({error}); make room, name another folder "
            "by TMPDIR, or choose precision fp32"
        ) from error


def _marked(model: openvino.Model, wanted: set[str]) -> openvino.Model:
    with tempfile.TemporaryDirectory(prefix="hatvid-") as folder:
        text, weights = Path(folder, "model.xml"), Path(folder, "model.bin")
        openvino.serialize(model, text, weights)
        network = ElementTree.parse(text).getroot()
        for layer in network.iterfind("layers/layer"):
            if layer.get("name") not in wanted:
                continue
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.SubElement(layer, "rt_info")
            if info.find("attribute[@name='precise']") is None:
                ElementTree.SubElement(info, "attribute", name="precise", version="0")
        # From memory, of which OpenVINO makes its own copy: a file that is mapped could not
        # be deleted on Windows, and a tensor would have to outlive the model.
        return openvino.Core().read_model(ElementTree.tostring(network), weights.read_bytes())
