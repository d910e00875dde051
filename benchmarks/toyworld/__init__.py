"""What the project claims, measured on the toy world.

    python -m benchmarks.toyworld run          personalization: PALP, its baselines and ablations, over training steps
    python -m benchmarks.toyworld guide        Pick-and-Draw guidance of the untouched and of a personalized model
    python -m benchmarks.toyworld scores       how far the scores that PALP is compared with differ from its own
    python -m benchmarks.toyworld heatmaps     heat maps of words against the renderer's masks
    python -m benchmarks.toyworld table, compare, figure
    python -m benchmarks.toyworld model, range    what the model can do, and what the judges' figures range over

Rows are kept in `benchmarks/results`; what is there for the shipped weights is not computed again.
"""
