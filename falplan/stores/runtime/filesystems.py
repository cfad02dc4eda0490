"""Which file system a path lies on, and whether SQLite's locks and shared memory can be trusted there."""

from __future__ import annotations

from pathlib import Path

from falplan.core.errors import Refused

NETWORK = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.glusterfs", "lustre",
        "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.mount-s3", "gpfs", "beegfs", "ocfs2", "gfs2",
    }
)  # fmt: skip
"""Names as in /proc/self/mountinfo of file systems that several machines may write to."""


def refuse_network(path: Path) -> None:
    """Check that a database may live at `path`. Does nothing where there is no /proc.

    Raises:
        Refused: the folder is on a network file system.
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    kind = filesystem_of(str(path.parent.resolve()), mounts)
    if kind in NETWORK:
        raise Refused(
            "The database can't live on a network file system",
            f"{path} is on {kind}, where SQLite's locks do not hold and a database gets corrupted. "
            "Put the folder on a local disk.",
        )


def filesystem_of(folder: str, mountinfo: str) -> str:
    """The type of the file system that holds an absolute folder, '' if the table does not say."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = _unescaped(fields[4])
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # a later mount on the same point hides the earlier one
            best, kind = point, after.split(" ")[0]
    return kind


def _unescaped(point: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, char)
    return point
