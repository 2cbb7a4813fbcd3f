package core_test

import (
	"testing"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/storeproto/storetest"
)

// Schedule: an owner is granted an ensemble and has written nothing in it when metad is lost. The stores
// tell the restored metad what they have, then the owner begins with it: what is acknowledged
// there nobody would ever find.
func TestStoreThatHasToldCreatesNoStreams(t *testing.T) {
	l := newLab(t, core.Config{})
	first := func(e id.Epoch, n uint32) {
		l.append(storetest.Stream(e, n, storeproto.Journal), storetest.Batch(e, 1, 1, 0, 0))
		l.sync(10)
	}
	first(3, 1)
	l.c.Seal()
	if !l.c.Sealed() {
		t.Error("it does not know that it is sealed")
	}
	first(3, 2)
	l.append(journal, batch(2)) // of this stream it has told
	l.sync(10)
	l.expect("append 1: ok", "append 1: unavailable", "append 2: ok")
	l.c.Unseal(map[id.Volume]id.Epoch{storetest.Volume: 9})
	first(3, 2) // granted before, or by nobody
	first(8, 3)
	first(9, 1)
	other := storetest.Stream(1, 1, storeproto.Journal)
	other.Volume = id.Volume{77} // made since
	l.append(other, storetest.Batch(1, 1, 1, 0, 0))
	l.sync(10)
	l.expect("append 1: stale epoch", "append 1: stale epoch", "append 1: ok", "append 1: ok")
	if l.c.Sealed() {
		t.Error("it is sealed still")
	}
}
