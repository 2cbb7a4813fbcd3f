package memstore

import (
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
)

// Without this the engine's tests would run against another store than the real one.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *storetest.Harness {
		m := clock.NewManual()
		s := New(Options{ID: id.Store{1}, Incarnation: id.Incarnation{2}, Clock: m, LeaseTerm: time.Second})
		m.Advance(time.Second)
		return &storetest.Harness{Store: s, Advance: m.Advance, LeaseTerm: time.Second,
			Restart: func() storeproto.Store { s.Restart(); return s }}
	})
}
