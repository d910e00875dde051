"""What takes long and tells nothing of a model with random weights: how much of it the tests do."""

#: Module and constant of the core. Where a random model sees a subject means nothing, as do the pictures it draws.
FEW = {("palp_core.methods.subject_region", "DRAWS"): 2, ("palp_core.methods.previews", "SAMPLING_STEPS"): 3}
