package nbd

// vec gathers the parts of one write: headers in a scratch of its own, payload by reference.
type vec struct {
	scratch []byte
	used    int
	parts   [][]byte
	gone    int  // parts written whole
	left    int  // bytes not written yet
	tail    bool // the last part ends where the scratch goes on
}

const (
	scratchLen = 16 << 10
	partsMax   = 1000 // below the system's limit of 1024
)

func (v *vec) reset() {
	if v.scratch == nil {
		v.scratch = make([]byte, scratchLen)
	}
	clear(v.parts)
	v.parts, v.gone, v.used, v.left, v.tail = v.parts[:0], 0, 0, 0, false
}

// room tells whether n bytes of headers and the given parts of payload fit.
func (v *vec) room(n, parts int) bool {
	return v.used+n <= len(v.scratch) && len(v.parts)+2*parts+1 <= partsMax
}

// head gives n bytes of scratch as the next bytes to write; the caller fills all of them.
func (v *vec) head(n int) []byte {
	b := v.scratch[v.used : v.used+n]
	if v.tail {
		last := &v.parts[len(v.parts)-1]
		*last = v.scratch[v.used-len(*last) : v.used+n]
	} else {
		v.parts = append(v.parts, b)
	}
	v.used += n
	v.left += n
	v.tail = true
	return b
}

// payload appends b by reference.
func (v *vec) payload(b []byte) {
	if len(b) > 0 {
		v.parts = append(v.parts, b)
		v.left += len(b)
		v.tail = false
	}
}

// unwritten gives the parts still to write.
func (v *vec) unwritten() [][]byte { return v.parts[v.gone:] }

// advance takes n written bytes away.
func (v *vec) advance(n int) {
	v.left -= n
	for n > 0 {
		part := &v.parts[v.gone]
		if len(*part) > n {
			*part = (*part)[n:]
			return
		}
		n -= len(*part)
		*part = nil
		v.gone++
	}
}
