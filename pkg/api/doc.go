// Package api has the messages and services of metad as generated from the .proto
// files beside it, and the one table that maps error classes to gRPC and back.
//
// Service Cluster is public: operators, the CLI and tools. Service Blockd is for
// blockd only. Callers do not use the generated clients directly but pkg/client,
// which finds the leader, retries what may be retried and speaks in typed ids.
package api

//go:generate ./generate.sh
