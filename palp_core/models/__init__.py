"""What is trained and sampled: the contract with a diffusion model, and everything that looks into one."""
