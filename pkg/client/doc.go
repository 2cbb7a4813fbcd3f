// Package client is how every daemon and tool speaks to metad: Metad for blockd,
// Cluster for operators. It finds the leader, follows redirects, retries calls that
// may be sent twice, within the caller's context and with backoff, and turns ids and
// errors into the types of pkg/id and pkg/errs.
package client
