"""What kind of file system a path lies on."""

from __future__ import annotations

from pathlib import Path

# As Linux names them; on these, locks are unreliable and SQLite's shared memory is not shared.
_NETWORK = frozenset(
    """nfs nfs4 cifs smb3 smbfs ncpfs afs coda ceph glusterfs lustre gpfs beegfs orangefs pvfs2
    fuse.sshfs fuse.glusterfs fuse.ceph fuse.s3fs fuse.rclone fuse.gcsfuse fuse.smbnetfs
    fuse.juicefs fuse.mount-s3""".split()  # noqa: SIM905 (a list of 24 lines)
)


_MOUNTS = Path("/proc/self/mountinfo")


def network_filesystem(path: Path, *, mounts: Path = _MOUNTS) -> str | None:
    """Returns the kind of network file system that the path lies, or would lie, on; else None.

    None too where the system does not tell (it is asked by Linux's table of mounts).
    """
    kind = filesystem(path, mounts=mounts)
    return kind if kind in _NETWORK else None


def filesystem(path: Path, *, mounts: Path = _MOUNTS) -> str | None:
    """Returns the kind of file system that the path lies, or would lie, on, as Linux names it.

    None where the system does not tell.
    """
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    target = path.expanduser().absolute().resolve()
    found: tuple[int, str] = (0, "")
    for line in lines:
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()[:1]
        if len(fields) < 5 or not kind:
            continue
        place = Path(fields[4].replace(r"\040", " "))
        if place == target or place in target.parents:  # of two, the longer; of equals, the later
            found = max((len(place.parts), kind[0]), found, key=lambda pair: pair[0])
    return found[1] or None
