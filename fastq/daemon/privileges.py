"""Become another user before anything is opened."""

from __future__ import annotations

import os

from fastq.exceptions import ImproperlyConfigured

__all__ = ["become", "set_umask"]


def become(uid: str | None, gid: str | None) -> None:
    """Give up the rights of this process for those of a user and a group, each a name or a number; None: the user's own group.

    ImproperlyConfigured if one does not exist, or this process may not: only root may become somebody else. It cannot be undone.
    """
    # lazy: few workers change their user
    import grp
    import pwd

    if uid is None and gid is None:
        return
    user = None
    if uid is not None:
        try:
            user = pwd.getpwuid(int(uid)) if uid.isdigit() else pwd.getpwnam(uid)
        except KeyError:
            if not uid.isdigit():
                raise ImproperlyConfigured(f"--uid {uid}: there is no user of that name") from None
    try:
        group_id = int(gid) if gid and gid.isdigit() else grp.getgrnam(gid).gr_gid if gid else user.pw_gid if user else None
    except KeyError:
        raise ImproperlyConfigured(f"--gid {gid}: there is no group of that name") from None
    user_id = user.pw_uid if user else int(uid) if uid is not None else None
    if (user_id in (None, os.getuid())) and (group_id in (None, os.getgid())):
        return
    if os.geteuid() != 0:
        raise ImproperlyConfigured(f"--uid and --gid need a start as root; this process runs as uid {os.geteuid()}")
    if group_id is not None:
        # before the user: afterwards this is not allowed any more
        os.setgid(group_id)
        if user is not None:
            os.initgroups(user.pw_name, group_id)
        elif user_id is not None:
            os.setgroups([group_id])
    if user_id is not None:
        os.setuid(user_id)
        if user_id and os.getuid() != user_id:
            raise ImproperlyConfigured(f"the user did not change to {uid}: the process still runs as uid {os.getuid()}")


def set_umask(text: str | None) -> None:
    """Set the bits that new files do not get, as octal digits such as ``027`` or ``0o27``."""
    if text is None:
        return
    try:
        os.umask(int(text.removeprefix("0o"), 8))
    except ValueError:
        raise ImproperlyConfigured(f"--umask {text}: expected octal digits, such as 027") from None
