"""Ascend: optimized.pb to an .om, and the reader of what the device computed. The scripts are in om/."""
