"""What every long run needs: checkpoints, files, interrupts, memory."""
