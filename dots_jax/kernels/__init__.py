"""Kernels: a plain reference for each, and what CPUs, TPUs and GPUs run instead."""
