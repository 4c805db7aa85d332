# One image for the inference server, the LoRA manager and the page; compose.yaml selects the program.
# It needs no CUDA base: torch's Linux wheels include CUDA, and the host's driver is mounted.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

WORKDIR /src

# Triton compiles its launcher with gcc when the first kernel runs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# Dependencies come first, so that their layer is reused when the source changes. Every file must
# match a hash that was recorded with the lock.
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

# The uid is fixed because compose.yaml makes it the owner of the sockets' tmpfs.
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin wuliart
RUN install -d -o wuliart -g wuliart -m 0700 /run/wuliart
RUN install -d -o wuliart -g wuliart /app /app/models /app/models/lora

WORKDIR /app
USER wuliart
EXPOSE 50051 7860
# --insecure as in compose.yaml: the published port decides which machines can connect.
CMD ["wuliart-server", "--listen", "0.0.0.0:50051", "--runtime-dir", "/run/wuliart", "--insecure"]
