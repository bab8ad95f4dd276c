"""What tests make and use: worlds, stores, runs, processes, damage."""
