"""What the kernels reach on a GPU, beside what the machine can do and what others reach."""
