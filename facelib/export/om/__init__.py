"""Ascend: from optimized.pb to an .om, and the test of what the device computed. The scripts are in om/."""
