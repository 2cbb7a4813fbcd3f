package cluster

import (
	"fmt"
	"math/bits"
	"time"

	"ashlar.dev/pkg/errs"
)

// QoS is how fast a disk may be, of all its clients together. Zero fields do not bound.
type QoS struct {
	IOPS       uint64 // reads, writes, trims and write-zeroes per second, whatever their size
	IOPSBurst  uint64 // as many may be made at once after idleness; 0: a tenth of a second's worth
	Bytes      uint64 // bytes read and written per second
	BytesBurst uint64 // likewise
}

// Bounds of a QoS that is not zero. Below them what a client has in flight could wait longer
// than clients and proxies do.
const (
	IOPSMin  = 100
	IOPSMax  = 100_000_000
	BytesMin = 1 << 20
	BytesMax = 1 << 40
	// BurstMax is the longest that a burst may take to gather.
	BurstMax = time.Hour
)

// Limited tells whether q bounds anything.
func (q QoS) Limited() bool { return q.IOPS != 0 || q.Bytes != 0 }

// Validate refuses what cannot work, with ErrInvalid.
func (q QoS) Validate() error {
	check := func(what string, rate, burst, low, high uint64) error {
		switch {
		case rate == 0 && burst != 0:
			return fmt.Errorf("a burst of %s needs a limit of %s: %w", what, what, errs.ErrInvalid)
		case rate == 0:
			return nil
		case rate < low || rate > high:
			return fmt.Errorf("%d %s per second: want %d to %d: %w", rate, what, low, high, errs.ErrInvalid)
		}
		if over, most := bits.Mul64(rate, uint64(BurstMax/time.Second)); over == 0 && burst > most {
			return fmt.Errorf("burst of %d %s would gather for more than %v at %d per second: %w", burst, what, BurstMax, rate, errs.ErrInvalid)
		}
		return nil
	}
	if err := check("I/Os", q.IOPS, q.IOPSBurst, IOPSMin, IOPSMax); err != nil {
		return err
	}
	return check("bytes", q.Bytes, q.BytesBurst, BytesMin, BytesMax)
}

// QoSChange says what becomes of a QoS; what is nil stays.
type QoSChange struct{ IOPS, IOPSBurst, Bytes, BytesBurst *uint64 }

// Apply gives q as changed. A limit that goes takes its burst along.
func (c QoSChange) Apply(q QoS) QoS {
	for _, x := range []struct {
		to   *uint64
		from *uint64
	}{{&q.IOPS, c.IOPS}, {&q.IOPSBurst, c.IOPSBurst}, {&q.Bytes, c.Bytes}, {&q.BytesBurst, c.BytesBurst}} {
		if x.from != nil {
			*x.to = *x.from
		}
	}
	if q.IOPS == 0 && c.IOPSBurst == nil {
		q.IOPSBurst = 0
	}
	if q.Bytes == 0 && c.BytesBurst == nil {
		q.BytesBurst = 0
	}
	return q
}
