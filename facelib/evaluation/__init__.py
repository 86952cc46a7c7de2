"""Embeddings of a verification set become ACC, AUC and VR@FAR, a threshold, a results file and a gate."""
