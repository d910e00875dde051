"""What the project claims, measured on the toy world.

    python -m benchmarks.toyworld run           personalization: PALP, its baselines and ablations, over training steps
    python -m benchmarks.toyworld guide         Pick-and-Draw guidance of the base model and of personalized ones
    python -m benchmarks.toyworld table         what these two have found; also `compare` and `figure`
    python -m benchmarks.toyworld scores        how far the scores that PALP is compared with differ from its own
    python -m benchmarks.toyworld heatmaps      heat maps of words against the renderer's masks
    python -m benchmarks.toyworld looks         what captions do that name a subject's looks
    python -m benchmarks.toyworld model         what the model can do
    python -m benchmarks.toyworld range         what subject alignment ranges over

Rows are kept in `benchmarks/results`; what is there for the shipped weights is not computed again.
"""
