"""CPU limits of a process' control groups, versions 1 and 2: has the kernel held it back?"""

from __future__ import annotations

from dataclasses import dataclass

from hangwatch.kernel import files


@dataclass(frozen=True, slots=True)
class Throttling:
    """Sums over the process' group and those above it (a pod's limit counts for its containers).

    ``periods`` are those in which the group ran, ``throttled_periods`` those in which it used up its quota,
    ``throttled_ns`` how long it was kept from running. ``cpus`` is the tightest quota in CPUs, None without any.
    """

    periods: int
    throttled_periods: int
    throttled_ns: int
    cpus: float | None

    def since(self, earlier: Throttling) -> Throttling:
        """What was added after ``earlier``."""
        return Throttling(
            self.periods - earlier.periods,
            self.throttled_periods - earlier.throttled_periods,
            self.throttled_ns - earlier.throttled_ns,
            self.cpus,
        )


def cpu_throttling(pid: int) -> Throttling | None:
    """None when no CPU group of the process can be found or read from here (another container's, no cgroup mount)."""
    for folder, top, version in _folders(pid):
        levels = [level for path in _upwards(folder, top) if (level := _level(path, version)) is not None]
        if levels:
            quotas = [level.cpus for level in levels if level.cpus is not None]
            return Throttling(
                sum(level.periods for level in levels),
                sum(level.throttled_periods for level in levels),
                sum(level.throttled_ns for level in levels),
                min(quotas, default=None),
            )
    return None


def _folders(pid: int) -> list[tuple[str, str, int]]:
    """Folder of the process' CPU group, its mount point, and the version; version 1 first, for it wins in a hybrid set-up."""
    mounts = _mounts()
    found: list[tuple[str, str, int]] = []
    for line in (files.read_text(f"/proc/{pid}/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "cpu" in controllers.split(","):
            version = 1
        elif number == "0" and not controllers:
            version = 2
        else:
            continue
        if version in mounts:
            point, root = mounts[version]
            found.append((_join(point, root, path), point, version))
    return sorted(found, key=lambda entry: entry[2])


def _mounts() -> dict[int, tuple[str, str]]:
    """Version -> (mount point, which folder of the hierarchy is mounted there)."""
    found: dict[int, tuple[str, str]] = {}
    for line in (files.read_text("/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        columns, kind = left.split(), right.split()
        if len(columns) < 5 or not kind:
            continue
        if kind[0] == "cgroup2":
            found.setdefault(2, (columns[4], columns[3]))
        elif kind[0] == "cgroup" and "cpu" in kind[-1].split(","):
            found.setdefault(1, (columns[4], columns[3]))
    return found


def _join(point: str, root: str, path: str) -> str:
    # Inside a container without a cgroup namespace the path is the host's while the mount shows only its end.
    if root != "/" and path.startswith(root):
        path = path[len(root) :]
    return (point + "/" + path.strip("/")).rstrip("/")


def _upwards(folder: str, top: str) -> list[str]:
    paths = []
    while folder.startswith(top):
        paths.append(folder)
        if folder == top:
            break
        folder = folder.rpartition("/")[0]
    return paths


def _level(folder: str, version: int) -> Throttling | None:
    stat = files.fields(files.read_text(f"{folder}/cpu.stat"), " ")
    if "nr_throttled" not in stat:
        return None
    if version == 2:
        throttled_ns = int(stat.get("throttled_usec", "0")) * 1000
        quota, _, period = (files.read_text(f"{folder}/cpu.max") or "max 100000").partition(" ")
    else:
        throttled_ns = int(stat.get("throttled_time", "0"))
        quota = (files.read_text(f"{folder}/cpu.cfs_quota_us") or "-1").strip()
        period = files.read_text(f"{folder}/cpu.cfs_period_us") or "100000"
    cpus = int(quota) / int(period) if quota.lstrip("-").isdigit() and int(quota) > 0 else None
    return Throttling(int(stat["nr_periods"]), int(stat["nr_throttled"]), throttled_ns, cpus)
