package nbd

import (
	"context"
	"testing"
)

// Without this a client that dies in the handshake, when its disk is open and before it hears so, would count as one that uses
// the disk for ever: nobody could delete it, or roll it back.
func TestClientThatHangsUpInTheHandshakeLeavesNothingOpen(t *testing.T) {
	d := &fake{data: make([]byte, 4096)}
	e := one(d)
	opening, gone := make(chan struct{}), make(chan struct{})
	e.slow = func(context.Context) error {
		close(opening)
		<-gone
		return nil
	}
	_, p := serve(t, Config{Exports: e}, Endpoint{})
	p.greet(3)
	p.send([]byte("IHAVEOPT"), u32(7), text(string(goData("disk"))))
	<-opening
	_ = p.conn.Close() // it is killed
	close(gone)
	<-p.over
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed != 1 {
		t.Errorf("closed %d times", d.closed)
	}
}
