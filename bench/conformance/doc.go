// Package conformance runs suites against the real bodies of seams that one room may not import
// from another: metad as it ships, over its own wire with TLS and Raft, against what the volume
// engine is tested with (blockd/volume/metadtest). It is tests only.
package conformance
