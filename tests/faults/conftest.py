"""What pytest must not import here: a module of the name that Python itself looks for in every process."""

collect_ignore = ["plant"]
