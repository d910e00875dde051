"""The papers: prompt-aligned personalization, textual inversion, Pick-and-Draw, attention heat maps."""
