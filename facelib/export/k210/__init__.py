"""K210: what the chip can run, its two memories, and compilation by nncase. The scripts are in k210/."""
