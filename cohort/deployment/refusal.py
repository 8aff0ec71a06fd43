"""Why a catalog cannot be deployed as asked."""


class DeployError(ValueError):
    """A deployment that cannot be had; one line a problem."""
