// Package enroll is how a machine becomes part of a cluster: Init makes a cluster on its
// first machine, a Token invites others, Join makes one of them a host. All three end with
// certificates and config files in one folder; they start nothing and format nothing.
//
// A host makes its keys itself and they stay there: only requests to sign them travel, to
// a server that is known by the fingerprint of the CA in the token. Join may be repeated
// after any failure: it goes on with the keys it made, and the same use of a token counts
// once.
package enroll
