package volume

import (
	"time"

	"ashlar.dev/blockd/volume/core"
)

// Cork and Uncork make Volume an nbd.Corker: the writes that a client sends at once
// share a journal batch. Corks of several connections nest.
func (v *Volume) Cork() {
	v.mu.Lock()
	v.core.Cork()
	v.mu.Unlock()
}

// Uncork ends a Cork.
func (v *Volume) Uncork() {
	v.step(func(now time.Duration, fx *core.Effects) { v.core.Uncork(now, fx) })
}
