"""What stays on disk: LoRA files, words, unfinished trainings, pictures."""
