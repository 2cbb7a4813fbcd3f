// Command sharing measures how disks, and repair, share what there is: limits of a disk, a greedy
// neighbour, foreground latency during repair. It starts clusters of its own with ashlar
// dev, loads their disks with fio, and writes its tables into SHARING.md.
//
//	make bench-sharing                 all of it
//	make bench-sharing WHAT=qos        one part
//
// BEFORE names a folder with the binaries of another build: parts that compare measure both in turn.
package main
