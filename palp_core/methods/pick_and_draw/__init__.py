"""Pick-and-Draw guidance, arXiv 2401.16762: a subject's look from one picture, without training."""
