"""Evaluation: from the embeddings of a verification set to ACC, AUC, VR@FAR, thresholds, a report file and the gate.

The protocols are in ten_fold, all_pairs, identification and ijb. The pages about reports are made in
`facelib.reports`.
"""
