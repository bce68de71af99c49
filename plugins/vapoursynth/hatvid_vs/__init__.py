"""The VapourSynth plugin of hatvid."""
