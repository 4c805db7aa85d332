#!/bin/sh
# Generates src/gen from the repository's .proto files with the protoc of `make install-dev`.
set -eu
cd "$(dirname "$0")"
python=../../.venv/bin/python
test -x "$python" || { echo "run \`make install-dev\` in the repository first" >&2; exit 1; }
# google/rpc/error_details.proto comes with googleapis-common-protos.
common=$("$python" -c 'import google.rpc as rpc, pathlib; print(pathlib.Path(rpc.__path__[0]).parents[1])')
rm -rf src/gen
mkdir -p src/gen
"$python" -m grpc_tools.protoc -I ../../protos -I "$common" \
  --plugin=protoc-gen-es=node_modules/.bin/protoc-gen-es \
  --es_out=src/gen --es_opt=target=ts,import_extension=js \
  wuliart/v1/image_generation.proto wuliart/v1/adapter.proto google/rpc/error_details.proto
