"""Words that are another one in each layer of a UNet: P+ (arXiv 2303.09522) and NeTI (arXiv 2305.15391)."""
