"""Workers by the name of their engine, as in `--on ray`."""

from gankd.config import require
from gankd.processes import started_together
from gankd.recipes.workers import Workers


def connected(on: str, most: int | None = None, store: str | None = None) -> Workers:
    """Connect to the cluster that trains students.

    Args:
        on: ray, ray://HOST:PORT, slurm, or slurm:NAME=VALUE,... with options of sbatch.
        most: students trained side by side, at most; default: as many as the cluster has room for.
        store: folder in which stages are exchanged; default: the run folder, on a disk that all machines share.

    Raises:
        ConfigError: there is no such engine, its extra is missing, or nothing answers.
    """
    require(not started_together(), "--on is for one process; leave --processes and torchrun out")
    engine, _, rest = on.partition(":")
    if engine == "slurm":
        from gankd.recipes.slurm_workers import SlurmWorkers

        return SlurmWorkers.connect(rest, most, store)
    known = on == "ray" or on.startswith("ray://")
    require(known, f"--on takes ray, ray://HOST:PORT, slurm or slurm:partition=gpu,time=240, got {on!r}")
    require(most is None, "--workers is for processes here; with --on ray the cluster says how many students fit")
    from gankd.recipes.ray_workers import RayWorkers

    return RayWorkers.connect(on if rest else "auto", store)
