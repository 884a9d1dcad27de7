"""The container file of a profile: the locked program, compiled, under a user without rights."""

from clusters.profile import Profile

_EXTRAS = {"aws": " --extra aws", "gcp": " --extra gcp"}

_DOCKERFILE = """\
# Written by `defectnas cluster render` from a profile: change that, not this.
# Build it in a checkout: docker build --file {file} --tag {tag} .
FROM {uv} AS uv

FROM {base}
# wget: KubeRay's health probes; rsync: how `ray up` copies into the container.
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends rsync wget \\
    && rm -rf /var/lib/apt/lists/*
COPY --from=uv /uv /usr/local/bin/uv

WORKDIR /app
# Byte code, because Ray starts a Python process per worker and each would compile torch and Ray anew.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
COPY pyproject.toml uv.lock README.md ./
RUN uv sync --frozen --no-dev{extra} --no-install-project
COPY models ./models
COPY search ./search
COPY clusters ./clusters
COPY orchestrator ./orchestrator
RUN uv sync --frozen --no-dev{extra} --no-editable

# Login shells, as `ray up` uses them, forget PATH.
RUN ln -s /app/.venv/bin/ray /app/.venv/bin/defectnas /usr/local/bin/ \\
    && useradd --uid {user} --create-home --shell /bin/bash defectnas \\
    && /app/.venv/bin/python -c "import sys; assert sys.version_info[:2] == {python}" \\
    && /app/.venv/bin/python -c "import ray; assert ray.__version__ == '{ray}'"
ENV PATH=/app/.venv/bin:$PATH \\
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \\
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
USER {user}:{user}
WORKDIR /home/defectnas
"""

DOCKERIGNORE = """\
*
!pyproject.toml
!uv.lock
!README.md
!models
!search
!clusters
!orchestrator
**/__pycache__
"""
"""What of a checkout goes into the image: the program, and no data, runs or keys."""


def dockerfile(profile: Profile, file: str = "Dockerfile") -> str:
    """Return the text of the container file.

    Args:
        profile: the cluster; its Ray and Python versions are complete.
        file: what it will be called, for the comment on how to build it.
    """
    major, minor = profile.ray.python.split(".")
    return _DOCKERFILE.format(
        file=file,
        tag=profile.image.name,
        uv=profile.image.uv,
        base=profile.image.base or f"docker.io/library/python:{profile.ray.python}-slim-bookworm",
        user=profile.security.user,
        ray=profile.ray.version,
        python=f"({major}, {minor})",
        extra=_EXTRAS.get(profile.kind, ""),
    )
