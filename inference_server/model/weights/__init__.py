"""Where weights come from: checkpoints, prepared folders, and how they are packed."""
