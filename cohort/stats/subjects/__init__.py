"""Parts of mixed models: intercepts and slopes of subjects, contrasts, results."""
