"""The model: its spec, the presets, the one file that builds, encode and decode, and the model directory."""
