// Package diskfile knows files that hold disks: raw, qcow2, vpc (VHD), vhdx, vmdk and vdi. What a file is it decides
// itself from a few headers (Sniff), so that a file from strangers never chooses what is opened: one that names another
// file is refused before any program reads it. Converting is done by qemu-img, a process with limits of its own that
// is given the open file and its format and dies with ours (Tool).
//
// It knows no cluster: the other side of a conversion is an NBD address. Everything may be called at once.
package diskfile
