"""How anything is learned: data, objective, optimizer steps, and the one loop."""
