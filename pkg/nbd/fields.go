package nbd

// fields takes the data of an option apart. After the first thing that does not fit all are zero.
type fields struct{ b []byte }

func (p *fields) ok() bool { return p.b != nil }
func (p *fields) bad()     { p.b = nil }

// end tells whether everything fitted and nothing is left.
func (p *fields) end() bool { return p.b != nil && len(p.b) == 0 }

func (p *fields) take(n uint32) []byte {
	if p.b == nil || uint64(n) > uint64(len(p.b)) {
		p.b = nil
		return nil
	}
	b := p.b[:n:n]
	p.b = p.b[n:]
	return b
}

func (p *fields) uint32() uint32 {
	if b := p.take(4); b != nil {
		return be.Uint32(b)
	}
	return 0
}

func (p *fields) uint16() uint16 {
	if b := p.take(2); b != nil {
		return be.Uint16(b)
	}
	return 0
}

// text takes a string with its 32-bit length before it.
func (p *fields) text() []byte { return p.take(p.uint32()) }

// count16 takes a 16-bit count of at most limit.
func (p *fields) count16(limit uint16) uint16 {
	n := p.uint16()
	if n > limit {
		p.bad()
		return 0
	}
	return n
}
