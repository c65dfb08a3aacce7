# recallfront with everything that a node of a cluster needs, and an MLflow server with its pages.
#
#   docker build --tag recallfront:cuda .
#   docker build --tag recallfront:cpu --build-arg VARIANT=cpu --build-arg TORCH_INDEX=INDEX-OF-CPU-BUILDS .
#
# The packages are those of constraints.txt. torch's CUDA build brings its own CUDA libraries, so both variants stand on
# the same small image; PYTHON_IMAGE can name it by its digest.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG VARIANT=cuda
# of pip: where torch's CPU builds are, for VARIANT=cpu; they leave the choice of triton to us
ARG TORCH_INDEX=""
ARG TRITON=3.9.0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/recallfront
ENV PATH=/opt/recallfront/bin:$PATH
WORKDIR /build
COPY constraints.txt ./
# a layer of its own: torch is most of the image, and changes least
RUN version="$(grep '^torch==' constraints.txt)" \
 && case "$VARIANT" in \
      cuda) pip install --constraint constraints.txt "$version" ;; \
      cpu) pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$version" \
        && pip install --constraint constraints.txt "triton==$TRITON" \
        && python -c 'import sys, torch; sys.exit(torch.version.cuda and "give TORCH_INDEX for VARIANT=cpu")' ;; \
      *) echo "VARIANT is cuda or cpu, not $VARIANT" >&2; exit 1 ;; \
    esac
COPY pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY models models
COPY sweeps sweeps
COPY platform platform
COPY dashboards dashboards
COPY benchmarks benchmarks
COPY recallfront recallfront
RUN extras=postgres,s3 \
 && if [ "$VARIANT" = cuda ]; then extras="$extras,gpu"; fi \
 && pip install --constraint constraints.txt ".[$extras]" \
 && recallfront --version

FROM ${PYTHON_IMAGE}
ARG VARIANT=cuda
# KubeRay asks a node for its health with wget; Triton compiles what starts kernels on a GPU at their first use
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends wget \
 && if [ "$VARIANT" = cuda ]; then apt-get install --yes --no-install-recommends gcc libc6-dev; fi \
 && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 1000 recallfront \
 && useradd --uid 1000 --gid 1000 --create-home --home-dir /var/lib/recallfront recallfront \
 && install --directory --owner recallfront --group recallfront /shared \
 && install --directory --owner recallfront --group recallfront --mode 700 /tmp/recallfront-quiet-1000
COPY --from=build /opt/recallfront /opt/recallfront
ENV PATH=/opt/recallfront/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
USER 1000:1000
WORKDIR /var/lib/recallfront
CMD ["recallfront", "--help"]
