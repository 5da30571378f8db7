"""Tensors: the DSC model, its training, engine, export and latency. Pure; knows no market word."""
