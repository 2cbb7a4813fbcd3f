package chunk

import (
	"encoding/binary"
	"strings"
	"testing"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
)

// Without this a blockd that was put back to an earlier version would open a store whose
// log or index a later one has written in its own way. The STORE file is read first.
func TestStoreOfALaterVersionIsRefused(t *testing.T) {
	s := Identity{ID: id.Store{1}, Incarnation: id.Incarnation{2}, LogFileBytes: logFileBytesDefault, LogFilesMax: 4, ExtentBytes: 1 << 30}
	b := s.encode()
	binary.LittleEndian.PutUint32(b[8:], storeFileVersion+1)
	binary.LittleEndian.PutUint32(b[storeFileBytes-4:], codec.CRC(b[:storeFileBytes-4]))
	if _, err := decodeIdentity("STORE", b); err == nil || !strings.Contains(err.Error(), "later version") {
		t.Fatalf("decoded: %v", err)
	}
}
