// Package pki is who may speak to whom. One cluster has one CA; every daemon, operator
// and NBD client holds a certificate that names its cluster, role and name in a URI SAN
//
//	ashlar://CLUSTER/ROLE/NAME
//
// beside the host names it may be reached by. Every connection between processes is
// TLS 1.3 with certificates on both sides; a peer without one, of another CA, of a role
// that is not expected, or expired, is refused in the handshake.
//
// An NBD client's certificate lists the disks it may open as further URIs,
// ashlar://CLUSTER/disk/NAME, where the name * means all.
//
// Keys are ECDSA P-256. Key files are 0600 and are not loaded otherwise. There is no
// revocation list: a lost key is answered by a new CA (ashlar ca rotate).
//
// Certificates and the CAs that are trusted change while a process runs: Credentials can be
// replaced, Server and Dialer follow connection by connection, what is connected stays. A
// Keeper does it: it renews after two thirds of a certificate's life, with a new key, and
// follows the CAs that the cluster agrees on. A renewal is for the same role, name, hosts and
// disks, and asks for nothing else.
// Private keys print as [secret] whatever formats them.
//
// All but a Keeper is safe for concurrent use.
package pki
