"""The pictures on the templates' cards: `python -m devtools.cards` draws them from the demo world's own pictures."""
