"""K210: what the chip can run, its memory, and the compilation by nncase. The scripts are in k210/."""
