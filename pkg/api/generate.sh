#!/bin/sh
# Writes the Go code of the .proto files beside it. Needs protoc 3.21 or later on the PATH
# and the two plugins at the versions below; `go install` fetches them if they are missing.
# generate.sh [DIR] writes into DIR instead.
set -eu
out=$(realpath "${1:-$(dirname "$0")}")
cd "$(dirname "$0")"
bin=$(go env GOPATH)/bin
[ -x "$bin/protoc-gen-go" ] || go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
[ -x "$bin/protoc-gen-go-grpc" ] || go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
PATH=$bin:$PATH protoc --proto_path=. \
  --go_out="$out" --go_opt=paths=source_relative \
  --go-grpc_out="$out" --go-grpc_opt=paths=source_relative \
  ashlar_common.proto ashlar_care.proto ashlar_lost.proto ashlar_lineage.proto ashlar_flatten.proto ashlar_restore.proto ashlar_kept.proto ashlar_trash.proto ashlar_snapgroup.proto ashlar_policy.proto ashlar_healing.proto ashlar_figures.proto ashlar_events.proto ashlar_identity.proto ashlar_memory.proto ashlar_blockd.proto ashlar_cluster.proto ashlar_member.proto ashlar_backup.proto ashlar_copy.proto ashlar_archive.proto ashlar_image.proto ashlar_hooks.proto ashlar_hosts.proto
