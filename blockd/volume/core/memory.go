package core

import "sync/atomic"

// Memory limits what all volumes of a process buffer together. A volume of which
// nothing is buffered may always take one operation, so that none starves; the
// excess is at most one operation for each volume. Safe for concurrent use.
type Memory struct {
	limit int64
	used  atomic.Int64
	turns cleanTurns

	hydrates atomic.Int32 // segments on their way from archives
}

// NewMemory gives a limit in bytes of payload.
func NewMemory(limit int64) *Memory { return &Memory{limit: limit} }

// Used is the bytes buffered now; Limit the most there should be.
func (m *Memory) Used() int64 { return m.used.Load() }

// Limit is the most there should be.
func (m *Memory) Limit() int64 { return m.limit }

// scarce tells that volumes should pack early: an eighth is left.
func (m *Memory) scarce() bool { return m != nil && m.used.Load() > m.limit-m.limit/8 }

// charge adds n bytes, perhaps below zero, to what this volume buffers.
func (c *Core) charge(n int64) {
	c.unpacked += n
	if c.unpacked < 0 {
		panic("volume: more bytes packed than were admitted")
	}
	if m := c.cfg.Memory; m != nil {
		m.used.Add(n)
	}
}

// hasRoom tells whether n bytes more may be buffered. One operation always may.
func (c *Core) hasRoom(n int64) bool {
	if c.unpacked == 0 {
		return true
	}
	m := c.cfg.Memory
	return c.unpacked+n <= c.cfg.Limits.UnpackedBytesMax && (m == nil || m.used.Load()+n <= m.limit)
}

// takeHydrate tells whether another segment may be brought in from an archive; leaveHydrate is its end.
func (m *Memory) takeHydrate() bool {
	if m == nil || m.hydrates.Add(1) <= hydratesMax {
		return true
	}
	m.hydrates.Add(-1)
	return false
}

func (m *Memory) leaveHydrate() {
	if m != nil {
		m.hydrates.Add(-1)
	}
}
