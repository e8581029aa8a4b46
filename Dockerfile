# harness on CPU or on NVIDIA GPUs; docs/container.md says how to use the image, and which of these steps were really run.
#
#   docker build -t harness .                         with CUDA: the torch of the lock
#   docker build -t harness --build-arg TORCH=cpu .   without CUDA: PyTorch's CPU build of the same versions
ARG BASE=debian:trixie-slim

FROM $BASE AS python
# Debian keeps one version of a package at a time, so pinning one here would only make old Dockerfiles fail.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*


# What to install, out of the lock, with the hash of every file; none of this stage's tools are in the image.
FROM python AS lock
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && python3 -m venv /uv \
 && /uv/bin/pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml uv.lock ./
ARG TORCH=cuda
ARG EXTRAS=postgres
# Options are words, split on purpose.
# hadolint ignore=SC2086
RUN mkdir /lists \
 && export="/uv/bin/uv export --quiet --frozen --no-emit-project --no-header --no-annotate" \
 && options="--no-dev --prune torch --prune torchvision" \
 && for extra in $EXTRAS; do options="$options --extra $extra"; done \
 && $export --only-group torch -o /lists/torch.txt >/dev/null \
 && case "$TORCH" in \
      cuda) ;; \
      cpu) options="$options --prune nvidia-nccl-cu12 --prune nvidia-nccl-cu13"; \
           sed -n -i -E 's/^(torch(vision)?==[^ ]+).*/\1/p' /lists/torch.txt ;; \
      *) echo "TORCH is '$TORCH'; it must be cuda or cpu" >&2; exit 2 ;; \
    esac \
 && $export $options -o /lists/rest.txt >/dev/null
COPY README.md LICENSE hatch_build.py ./
COPY studies studies
COPY harness harness
# The context has no git; `docker build --build-arg COMMIT=$(git rev-parse --short=12 HEAD)` tells the image its commit.
ARG COMMIT=unknown
RUN HARNESS_COMMIT=$COMMIT /uv/bin/uv build --quiet --wheel --out-dir /wheel


# The layer that changes seldom and weighs gigabytes comes first, the one that changes with every commit last.
FROM python AS harness
ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1
COPY --from=lock /lists/torch.txt /opt/lists/
ARG TORCH=cuda
# PyTorch's index of CPU builds has files of its own, whose hashes the lock does not know: versions are pinned there.
RUN --mount=type=bind,from=lock,source=/uv,target=/uv --mount=type=cache,target=/root/.cache/uv \
    /uv/bin/uv venv --quiet /opt/venv \
 && if [ "$TORCH" = cpu ]; then /uv/bin/uv pip install --torch-backend cpu -r /opt/lists/torch.txt; \
    else /uv/bin/uv pip install --require-hashes --no-deps -r /opt/lists/torch.txt; fi
COPY --from=lock /lists/rest.txt /opt/lists/
RUN --mount=type=bind,from=lock,source=/uv,target=/uv --mount=type=cache,target=/root/.cache/uv \
    /uv/bin/uv pip install --require-hashes --no-deps -r /opt/lists/rest.txt
# Copied, not mounted: builders that know a layer by its command alone would take yesterday's wheel for today's.
COPY --from=lock /wheel /opt/wheel/
RUN --mount=type=bind,from=lock,source=/uv,target=/uv \
    /uv/bin/uv pip install --no-cache --no-deps /opt/wheel/*.whl \
 && useradd --no-create-home --uid 1000 harness \
 && install -d -m 1777 /home/harness /work /mlruns /cache

# Of uid 1000, or of any other: docker run --user "$(id -u):$(id -g)" writes files that are yours.
USER 1000:1000
WORKDIR /work
ENV HOME=/home/harness \
    HARNESS_HOME=/mlruns \
    XDG_CACHE_HOME=/cache \
    MPLCONFIGDIR=/cache/matplotlib \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    PYTHONUNBUFFERED=1
VOLUME ["/mlruns", "/cache"]

# No HEALTHCHECK: this is a command that ends, not a service that is well or ill.
ENTRYPOINT ["harness"]
CMD ["--help"]
