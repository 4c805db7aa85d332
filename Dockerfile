# One image for the inference server, the LoRA manager and the page; compose.yaml says which runs.
# No CUDA base is needed: torch's Linux wheels bring CUDA, and the host's driver is mounted in.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

WORKDIR /src

# Triton compiles its launcher with it when the first kernel runs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# The dependencies first: their layer outlives changes of the source. Each file must be one that
# the lock has seen.
COPY hashes/ hashes/
RUN pip install --require-hashes -r hashes/runtime.txt -r hashes/torch-cuda.txt

COPY pyproject.toml README.md ./
COPY scripts/ scripts/
COPY protos/ protos/
COPY clients/ clients/
COPY inference_server/ inference_server/
COPY lora_manager/ lora_manager/
COPY wuliart_contract/ wuliart_contract/
COPY wuliart_lora/ wuliart_lora/
COPY wuliart_process/ wuliart_process/
RUN pip install --no-deps ./clients/python .

# The number is fixed because compose.yaml gives the sockets' tmpfs to it.
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin wuliart
RUN install -d -o wuliart -g wuliart -m 0700 /run/wuliart
RUN install -d -o wuliart -g wuliart /app /app/models /app/models/lora

WORKDIR /app
USER wuliart
EXPOSE 50051 7860
# --insecure as in compose.yaml: who may reach it is for whoever publishes the port to say.
CMD ["wuliart-server", "--listen", "0.0.0.0:50051", "--runtime-dir", "/run/wuliart", "--insecure"]
