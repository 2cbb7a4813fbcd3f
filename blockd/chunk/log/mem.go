package log

import "ashlar.dev/pkg/vfs"

// alignedBytes makes memory for direct I/O that is larger than pooled buffers are.
func alignedBytes(n int) []byte {
	b := make([]byte, n+Block)
	for !vfs.Aligned(b[:n]) {
		b = b[1:]
	}
	return b[:n]
}
