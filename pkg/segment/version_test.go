package segment

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

// Without this a shard of a later version would be read as another shape of bytes.
func TestShardHeadOfALaterVersionIsRefused(t *testing.T) {
	b := make([]byte, headFixed+sumSize)
	binary.LittleEndian.PutUint32(b, headMagic)
	binary.LittleEndian.PutUint16(b[4:], headVersion+1)
	binary.LittleEndian.PutUint32(b[len(b)-sumSize:], codec.CRC(b[:len(b)-sumSize]))
	if _, err := DecodeHead("shard", b); !errors.Is(err, errs.ErrCorrupt) || !strings.Contains(err.Error(), "later version") {
		t.Fatalf("decoded: %v", err)
	}
}
