"""Files with which a place runs a catalog by itself, at night: for systemd, cron, SLURM, Kubernetes and compose."""
