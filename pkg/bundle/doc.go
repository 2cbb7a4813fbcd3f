// Package bundle gathers what somebody needs who is to find out what is wrong with a
// cluster: a tar.gz of pieces, each bounded in time and size, without secrets. A piece that
// cannot be had is named in the manifest with the reason; the rest is gathered all the same.
//
// Nothing is taken from a folder of keys, and every text goes through Redact on its way.
// Profiles hold addresses of code and counts, no contents of memory.
package bundle
