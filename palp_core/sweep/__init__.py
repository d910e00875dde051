"""From one picture to a thousand: subjects x prompts x methods x seeds, in this process or on a Ray cluster."""
