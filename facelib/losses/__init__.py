"""Losses: margin heads such as ArcFace, metric losses, distillation, and the softmax over many classes (Partial FC)."""
