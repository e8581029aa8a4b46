# Runs on CPU, and on NVIDIA GPUs with `docker run --gpus all`: the torch of the lock carries CUDA.
#
#   docker build -t harness .
#   docker run --rm -v "$PWD":/home/harness/project harness study run lr_aug_sweep
#
# The image's user has id 1000. On a machine where yours is another: docker run --user "$(id -u):$(id -g)" ...
# MLflow's pages listen on loopback only: docker run --network host ... harness ui
FROM python:3.12-slim

ENV UV_PROJECT_ENVIRONMENT=/opt/harness/venv \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1

RUN pip install --no-cache-dir "uv>=0.9,<1"

WORKDIR /opt/harness
# The dependencies first: they change seldom, so this layer is kept when the code changes.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project --no-cache
COPY README.md LICENSE ./
COPY studies ./studies
COPY harness ./harness
RUN uv sync --frozen --no-dev --no-editable --no-cache

RUN useradd --create-home --uid 1000 harness && install -d -o harness -g harness /home/harness/project
USER harness
WORKDIR /home/harness/project

ENV PATH=/opt/harness/venv/bin:$PATH \
    HOME=/home/harness \
    MLFLOW_DISABLE_TELEMETRY=true \
    PYTHONUNBUFFERED=1

ENTRYPOINT ["harness"]
CMD ["--help"]
