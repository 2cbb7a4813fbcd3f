// Package e2e is tests with other people's tools against the real daemons: a cluster by
// ashlar dev, libnbd, QEMU and fio as clients, and daemons killed under verified I/O. They
// are built with the tag e2e (make e2e) and share one cluster where nothing is broken on purpose.
package e2e
