#!/usr/bin/env bash
# Builds the OpenTelemetry Collector of builder.yaml into a cache folder of the user's, once for each version of that file, and prints where it is.
# Needs Go and its module proxy; takes about three minutes on two cores the first time. `make collector` calls it.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
manifest="$here/builder.yaml"
version="$(sed -n 's/^  version: //p' "$manifest")"
cache="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/otel_exec/otelcol-$version-$(cksum < "$manifest" | cut -d ' ' -f 1)"
binary="$cache/otelcol"
if [ "${1:-}" = --where ]; then
  echo "$binary"
  exit
fi
if ! [ -x "$binary" ]; then
  command -v go > /dev/null || { echo "make collector: Go is not installed (https://go.dev/dl)" >&2; exit 1; }
  work="$cache.$$"
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work/sources"
  while IFS= read -r line; do
    printf '%s\n' "$line"
    if [ "$line" = dist: ]; then printf '  output_path: %s/sources\n' "$work"; fi
  done < "$manifest" > "$work/builder.yaml"
  GOBIN="$work" go install "go.opentelemetry.io/collector/cmd/builder@v$version" >&2
  "$work/builder" --config="$work/builder.yaml" >&2
  mkdir -p "$cache"
  mv "$work/sources/otelcol" "$binary" # whole or not at all
fi
echo "$binary"
