"""The thin image of docker/Dockerfile, built once a session, and containers of it that touch nothing of the user's.

    with Podman(builder()) as podman:
        podman.run("run", "--rm", *mounted_packages(), thin_image(), "distill", ...)

Packages are mounted from the environment of the tests, so building takes seconds. The base and the layers stay in
FD_SCALE_IMAGE_CACHE, by default ~/.cache/fd_scale/images, for the next session. `tools/cluster/podman.py` has the rest.
"""

import functools

from tools.cluster.podman import REPOSITORY, Builder, Podman, cache_folder, mounted_packages, why_not

__all__ = ["REPOSITORY", "Builder", "Podman", "builder", "cache_folder", "mounted_packages", "thin_image", "why_not"]


@functools.cache
def builder() -> Builder:
    """Makes the base where the cache has none, which takes one or two minutes and Debian's packages."""
    return Builder()


@functools.cache
def thin_image() -> str:
    """Its id."""
    return builder().build("thin")[0]
