// Package export says which disks this host serves and how: a disk that it owns by
// the volume open here, any other through the host that owns it. It is nbd.Exports
// for clients and volproto.Owner for other hosts' proxies.
//
// A disk gets its owner when somebody first opens it: whoever is asked acquires it
// from metad, or learns who has it. A client whose disk changes its owner is hung
// up on and finds the new one by connecting again, to any host. A snapshot of a disk is
// an export, disk@snapshot, that is served where the disk is and only read.
package export
