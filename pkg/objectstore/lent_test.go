package objectstore

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// Without this a transport that goes on reading the body of a request that is over would send what its owner
// has put into that memory since: bytes of another object under this one's key.
func TestBodyIsNotReadAfterPut(t *testing.T) {
	l := &lentReader{r: strings.NewReader("mine")}
	b := make([]byte, 2)
	if n, err := l.Read(b); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	l.giveBack()
	if n, err := l.Read(b); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Fatalf("%d bytes were read after it was given back: %v", n, err)
	}
}
