"""Margin heads, metric losses and distillation; softmax over many classes and over several workers."""
