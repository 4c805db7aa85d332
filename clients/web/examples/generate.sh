#!/bin/sh
# Draws over OpenAI's images API with nothing but curl and base64:
#   clients/web/examples/generate.sh "a red apple on a white background" apple.jpg
# WULIART_WEB is the page's address, http://127.0.0.1:7860 if it is not set.
set -eu
prompt=${1:?say what to draw}
file=${2:-image.jpg}

answer=$(curl -sS "${WULIART_WEB:-http://127.0.0.1:7860}/v1/images/generations" \
  -H "Content-Type: application/json" \
  -d "{\"prompt\": \"$prompt\", \"response_format\": \"b64_json\"}")
case $answer in
  *'"b64_json"'*) ;;
  *) echo "$answer" >&2; exit 1 ;;
esac
printf '%s' "$answer" | sed 's/.*"b64_json" *: *"\([^"]*\)".*/\1/' | base64 -d >"$file"
echo "saved $file"
