package segment

import "ashlar.dev/pkg/storeproto"

// AppendEntries appends the compact form of entries to dst; see FORMAT.md. Runs
// of ascending addresses cost least. All entries must be Valid.
func AppendEntries[E ~uint64](dst []byte, entries []E) []byte { panic("segment: being written") }

// AppendHead appends the encoded header h to dst. It panics if h breaks its own
// rules (DecodeHead would refuse it).
func AppendHead(dst []byte, h *storeproto.ShardHead) []byte { panic("segment: being written") }

// DecodeHead reads a header from b, all of it; place names the source in errors,
// which are of class errs.ErrCorrupt. The result shares no memory with b.
func DecodeHead(place string, b []byte) (*storeproto.ShardHead, error) {
	panic("segment: being written")
}
