"""Figures that need a GPU, as devtools/on_gpu.sh takes them."""
