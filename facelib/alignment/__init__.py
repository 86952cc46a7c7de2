"""Photos become aligned crops of 112 x 112 pixels."""
