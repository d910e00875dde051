"""What developers run and tests use, and no user needs: random models, a ComfyUI server, traces of trainings."""
