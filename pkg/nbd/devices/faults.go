package devices

import (
	"sync"

	"ashlar.dev/pkg/nbd"
)

// Fault fails requests that match it.
type Fault struct {
	Ops         []nbd.Op // nil: all
	Offset, End uint64   // requests that touch [Offset, End); End 0: all
	Err         error
	Done        bool // let the device do it first, then report Err: the outcome is unknown to the client
	Times       int  // how often; 0: without end
}

// Faults fails requests of the device under it by rules that may change at any time.
type Faults struct {
	nbd.Device

	mu struct {
		sync.Mutex
		rules []*Fault
		hits  int
	}
}

// Inject adds a rule. The first that matches a request counts.
func (d *Faults) Inject(f Fault) {
	d.mu.Lock()
	d.mu.rules = append(d.mu.rules, &f)
	d.mu.Unlock()
}

// Heal drops all rules.
func (d *Faults) Heal() {
	d.mu.Lock()
	d.mu.rules = nil
	d.mu.Unlock()
}

// Hits is how many requests failed by a rule.
func (d *Faults) Hits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.hits
}

// Submit fails r or hands it on.
func (d *Faults) Submit(r *nbd.Request) {
	f, ok := d.match(r)
	switch {
	case !ok:
		d.Device.Submit(r)
	case f.Done:
		r.Hook(nbd.CompleterFunc(func(r *nbd.Request, err error) {
			if err == nil {
				err = f.Err
			}
			r.Complete(err)
		}))
		d.Device.Submit(r)
	default:
		r.Complete(f.Err)
	}
}

func (d *Faults) match(r *nbd.Request) (Fault, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, f := range d.mu.rules {
		if !f.matches(r) {
			continue
		}
		d.mu.hits++
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				d.mu.rules = append(d.mu.rules[:i:i], d.mu.rules[i+1:]...)
			}
		}
		return *f, true
	}
	return Fault{}, false
}

func (f *Fault) matches(r *nbd.Request) bool {
	if f.End > 0 && (r.Offset >= f.End || r.Offset+r.Length <= f.Offset) {
		return false
	}
	for _, op := range f.Ops {
		if op == r.Op {
			return true
		}
	}
	return len(f.Ops) == 0
}
