package lifecycle

import "syscall"

// PrivateFiles lets nobody but the user whom the process runs as read the files that it makes from now
// on: a store's have the bytes of disks, a metad's the names of everything. To be called first.
func PrivateFiles() { syscall.Umask(0o077) }
