package devices

import "ashlar.dev/pkg/nbd"

// Null is a disk of zeros that forgets every write: the floor of what a server costs.
// Its reads move their zeros like data, so that it compares with a disk that has some.
type Null struct {
	Bytes uint64 // its size
}

// Submit completes r at once.
func (d Null) Submit(r *nbd.Request) {
	switch r.Op {
	case nbd.OpRead:
		clear(r.Data)
	case nbd.OpBlockStatus:
		r.AddExtent(r.Length, nbd.StateHole|nbd.StateZero)
	}
	r.Complete(nil)
}

// Size is Bytes.
func (d Null) Size() uint64 { return d.Bytes }

// Info describes the disk.
func (d Null) Info() nbd.Info { return nbd.Info{MultiConn: true, Description: "null disk"} }
